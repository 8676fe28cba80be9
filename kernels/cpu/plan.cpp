#include "plan.h"

#include "types.h"

using common::divide_up;
using common::larger;
using common::smaller;

namespace {

// The taps of one output row or column that lie inside the image.
void fill_axis(Axis* axis, i64 count, i64 size, i64 kernel, i64 stride, i64 padding, i64 dilation,
               i64 pitch, bool all) {
  for (i64 index = 0; index < count; ++index) {
    const i64 start = index * stride - padding;  // of tap 0, in the image
    i64 low = start >= 0 ? 0 : divide_up(-start, dilation);
    i64 high = start >= size ? 0 : smaller(kernel, divide_up(size - start, dilation));
    if (low >= high) low = high = 0;
    if (all) low = 0, high = kernel;
    axis[index] = {index * stride * pitch, low, high};
  }
}

// How many groups to join: the cheapest by the steps of all vectors, a tile's fixed cost included.
i64 choose_joined(const ConvPlan& plan) {
  constexpr i64 kTileSteps = 20;
  const Layout& layout = plan.path->layout;
  const i64 taps = plan.kernel_h * plan.kernel_w;
  i64 best = 1;
  double least = 0;
  for (i64 joined = 1; joined <= plan.spec.groups; ++joined) {
    if (plan.spec.groups % joined != 0) continue;
    const i64 vectors = divide_up(joined * plan.own_outputs, layout.lanes);
    const i64 elements = divide_up(joined * plan.own_channels, layout.element_channels);
    const i64 steps = (joined == 1 ? 1 : 2) * taps * elements * vectors + kTileSteps;
    const double cost = static_cast<double>(steps) / static_cast<double>(joined);
    if (joined == 1 || cost < least) best = joined, least = cost;
  }
  return best;
}

void plan_groups(ConvPlan& plan) {
  plan.own_channels = plan.channels / plan.spec.groups;
  plan.own_outputs = plan.out_channels / plan.spec.groups;
  plan.own_words = divide_up(plan.own_channels, kWordBits);
  plan.joined = choose_joined(plan);
  plan.copies = plan.joined == 1 ? 1 : 2;
  plan.groups = plan.spec.groups / plan.joined;
  plan.group_channels = plan.joined * plan.own_channels;
  plan.group_outputs = plan.joined * plan.own_outputs;
  plan.words = divide_up(plan.group_channels, kWordBits);
  plan.elements = divide_up(plan.group_channels, plan.path->layout.element_channels);
}

void plan_activations(ConvPlan& plan) {
  const ConvSpec& spec = plan.spec;
  const bool packed = spec.x.dtype == kBits;
  const bool padded = spec.padding[0] != 0 || spec.padding[1] != 0;
  // Packed x with nothing to add and no dirty tail is used where it lies.
  plan.in_place = packed && !padded && plan.path->layout.element_channels == kWordBits &&
                  plan.group_channels % kWordBits == 0;
  plan.pixel_pitch = plan.groups * plan.elements;
  plan.row_pitch = (plan.width + 2 * spec.padding[1]) * plan.pixel_pitch;
  plan.image_pitch = (plan.height + 2 * spec.padding[0]) * plan.row_pitch;
  plan.row_step = spec.dilation[0] * plan.row_pitch;
  const bool one_run = plan.groups == 1 && spec.dilation[1] == 1;
  plan.runs = one_run ? 1 : plan.kernel_w;
  plan.run_length = one_run ? plan.kernel_w * plan.elements : plan.elements;
  plan.run_step = spec.dilation[1] * plan.pixel_pitch;
}

void plan_weights(ConvPlan& plan) {
  const Layout& layout = plan.path->layout;
  plan.group_vectors = divide_up(plan.group_outputs, layout.lanes);
  plan.blocks = plan.groups * divide_up(plan.group_vectors, layout.vectors);
  plan.copy_steps = plan.kernel_h * plan.kernel_w * plan.elements;
  plan.steps = plan.copies * plan.copy_steps;
  const i64 vectors = plan.groups * plan.group_vectors;
  const bool padded = plan.spec.padding[0] != 0 || plan.spec.padding[1] != 0;
  plan.with_sums = padded && plan.spec.pad_value == 0;
  plan.sums_offset = vectors * plan.steps * layout.vector_bytes;
  const i64 sums = (plan.kernel_h + 1) * (plan.kernel_w + 1) * vectors * layout.lanes;
  plan.prepared_bytes = plan.sums_offset + (plan.with_sums ? sums * 4 : 0);
}

// Tiles that end with the rows of the image see fewer rows of padding, and leave no rest.
i64 choose_tile(const ConvPlan& plan) {
  const i64 most = plan.path->layout.pixels;
  const i64 pixels = plan.out_h * plan.out_w;
  i64 best = smaller(most, pixels);
  if (best < most) return best;
  for (i64 tile = most; 2 * tile > most; --tile) {
    if (plan.out_w % tile == 0) return tile;
    if (divide_up(pixels, tile) * tile < divide_up(pixels, best) * best) best = tile;
  }
  return best;
}

double guess_seconds(const ConvPlan& plan) {
  constexpr double kOperations = 1e12;  // a second: of the slower vector paths
  constexpr double kValues = 2e9;       // floats packed or written a second
  const double outputs = static_cast<double>(plan.batch * plan.out_h * plan.out_w) *
                         static_cast<double>(plan.out_channels);
  const double inputs = static_cast<double>(plan.batch * plan.height * plan.width) *
                        static_cast<double>(plan.channels);
  const double taps = static_cast<double>(plan.steps * plan.path->layout.element_channels);
  const bool packed = plan.spec.x.dtype == kBits;
  return 2 * outputs * taps / kOperations + outputs / kValues + (packed ? 0 : inputs / kValues);
}

}  // namespace

i64 plan_bytes(const ConvSpec& spec) {
  return static_cast<i64>(sizeof(ConvPlan)) +
         (spec.out_size[0] + spec.out_size[1]) * static_cast<i64>(sizeof(Axis));
}

void make_plan(const ConvSpec& spec, void* memory) {
  ConvPlan& plan = *static_cast<ConvPlan*>(memory);
  plan.spec = spec;
  plan.path = kPaths[spec.path];
  plan.batch = spec.x.shape[0];
  plan.channels = spec.x.shape[1];
  plan.height = spec.x.shape[2];
  plan.width = spec.x.shape[3];
  plan.out_channels = spec.weight.shape[0];
  plan.kernel_h = spec.weight.shape[2];
  plan.kernel_w = spec.weight.shape[3];
  plan.out_h = spec.out_size[0];
  plan.out_w = spec.out_size[1];
  plan_groups(plan);
  plan_activations(plan);
  plan_weights(plan);
  plan.tile = choose_tile(plan);
  plan.words_apart = plan.groups == 1 || plan.group_outputs % kWordBits == 0;
  plan.seconds = guess_seconds(plan);
  plan.rows = reinterpret_cast<Axis*>(&plan + 1);
  plan.columns = plan.rows + plan.out_h;
  const bool all = spec.pad_value != 0;
  fill_axis(plan.rows, plan.out_h, plan.height, plan.kernel_h, spec.stride[0], spec.padding[0],
            spec.dilation[0], plan.row_pitch, all);
  fill_axis(plan.columns, plan.out_w, plan.width, plan.kernel_w, spec.stride[1], spec.padding[1],
            spec.dilation[1], plan.pixel_pitch, all);
}
