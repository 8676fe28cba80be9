// The C ABI: choice of a path, threads, scratch memory.
#include <new>

#include "plan.h"
#include "scratch.h"
#include "team.h"
#include "types.h"

using common::divide_up;
using common::larger;
using common::smaller;

#if defined(__x86_64__)
extern const Path kAvx512Vpopcntdq;
extern const Path kAvx512;
extern const Path kAvx2;
#elif defined(__aarch64__)
extern const Path kNeon;
#endif
extern const Path kPortable;

const Path* const kPaths[] = {
#if defined(__x86_64__)
    &kAvx512Vpopcntdq,
    &kAvx512,
    &kAvx2,
#elif defined(__aarch64__)
    &kNeon,
#endif
    &kPortable,
};
const int kPathCount = sizeof(kPaths) / sizeof(kPaths[0]);

namespace {

// A thread is worth waking for this much work.
constexpr double kSecondsPerThread = 10e-6;

i64 threads_for(double seconds, i64 most) {
  return larger<i64>(1, smaller(most, static_cast<i64>(seconds / kSecondsPerThread)));
}

double pack_seconds(const Image& x) {
  constexpr double kBytes = 8e9;  // a second
  const i64 width[] = {2, 2, 4, 8, 1};
  double bytes = static_cast<double>(width[x.dtype]);
  for (i64 size : x.shape) bytes *= static_cast<double>(size);
  return bytes / kBytes;
}

// Largest magnitude, as a pattern of the type of x, that is at most float(clip) * abs(scale)
// (double for double). False: none is, because the bound is NaN.
bool clip_pattern(const PackSpec& spec, const void* scale, std::uint64_t* most) {
  const double value = common::load_float(scale, 0, spec.scale_dtype);
  if (spec.x.dtype == kFloat64) {
    const double bound = spec.clip * __builtin_fabs(value);
    *most = common::bit_cast<std::uint64_t>(bound);
    return bound >= 0;
  }
  const float bound = static_cast<float>(spec.clip) * __builtin_fabsf(static_cast<float>(value));
  const u32 bits = common::bit_cast<u32>(bound);
  *most = bits;
  if (spec.x.dtype == kBfloat16) *most = bits >> 16;
  if (spec.x.dtype == kFloat16) {
    u32 low = 0;
    u32 high = 0x7C00u;
    while (low < high) {
      const u32 middle = (low + high + 1) / 2;
      if (common::half_to_float(static_cast<u16>(middle)) <= bound) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    *most = low;
  }
  return bound >= 0;
}

PackJob pack_words(const Image& x, const void* data, void* out) {
  PackJob job{};
  job.x = x;
  job.data = data;
  job.groups = 1;
  job.images = x.shape[0];
  job.out = out;
  job.element_bytes = 4;
  job.elements = divide_up(x.shape[1], kWordBits);
  job.pixel_pitch = job.elements;
  job.row_pitch = x.shape[3] * job.pixel_pitch;
  job.image_pitch = x.shape[2] * job.row_pitch;
  return job;
}

PackJob pack_activations(const ConvPlan& plan, const void* data, i64 first, i64 images, void* out) {
  PackJob job{};
  job.x = plan.spec.x;
  job.data = data;
  job.groups = plan.groups;
  job.first_image = first;
  job.images = images;
  job.element_bytes = plan.path->layout.element_bytes;
  job.elements = plan.elements;
  job.pixel_pitch = plan.pixel_pitch;
  job.row_pitch = plan.row_pitch;
  job.image_pitch = plan.image_pitch;
  const i64 origin =
      plan.spec.padding[0] * plan.row_pitch + plan.spec.padding[1] * plan.pixel_pitch;
  job.out = static_cast<u8*>(out) + origin * job.element_bytes;
  return job;
}

i64 weight_words(const ConvPlan& plan) {
  return plan.out_channels * plan.kernel_h * plan.kernel_w * plan.own_words;
}

// A call on its way: what the threads of its team share.
struct Running {
  const ConvPlan& plan;
  const ConvPointers& pointers;
  i64 images;  // of one pass
  u8* activations;
  u32* packed_weight;
  u8* prepared;
  Flag stale;

  void work(i64 part, i64 parts) {
    if (pointers.norm != nullptr && part == 0) compare_norm(*pointers.norm);
    const bool float_weight = plan.spec.weight.dtype != kBits;
    const void* words = pointers.weight;
    if (pointers.prepared != nullptr) {
      compare(part, parts);
    } else if (float_weight) {
      plan.path->pack(pack_words(plan.spec.weight, pointers.weight, packed_weight), part, parts);
      team_barrier(parts);
      words = packed_weight;
    }
    if (pointers.prepared == nullptr) plan.path->prepare(plan, words, prepared, part, parts);
    for (i64 first = 0; first < plan.batch; first += images) {
      if (first != 0) team_barrier(parts);
      const i64 count = smaller(images, plan.batch - first);
      fill(first, count, part, parts);
      team_barrier(parts);
      if (stale.raised()) return;
      convolve(first, count, part, parts);
    }
  }

  // The weight may have been written to since it was prepared, by ways that leave no trace.
  void compare(i64 part, i64 parts) {
    const Share bytes(weight_words(plan) * 4, part, parts);
    const u8* now = static_cast<const u8*>(pointers.weight);
    const u8* then = static_cast<const u8*>(pointers.raw);
    const size_t count = static_cast<size_t>(bytes.end - bytes.begin);
    if (std::memcmp(now + bytes.begin, then + bytes.begin, count) != 0) stale.raise();
  }

  void compare_norm(const Norm& norm) {
    const size_t bytes = static_cast<size_t>(plan.out_channels) * sizeof(float);
    for (int i = 0; i < Norm::kSources; ++i) {
      if (norm.source[i] == nullptr) continue;
      if (std::memcmp(norm.source[i], norm.copy[i], bytes) != 0) stale.raise();
    }
  }

  void fill(i64 first, i64 count, i64 part, i64 parts) {
    if (plan.in_place) return;
    const Path& path = *plan.path;
    if (plan.spec.x.dtype == kBits) {
      path.expand(plan, pointers.x, first, count, activations, part, parts);
      return;
    }
    path.pad(plan, count, activations, part, parts);
    path.pack(pack_activations(plan, pointers.x, first, count, activations), part, parts);
  }

  void convolve(i64 first, i64 count, i64 part, i64 parts) {
    const void* from = activations;
    if (plan.in_place) {
      from = static_cast<const u8*>(pointers.x) +
             first * plan.image_pitch * plan.path->layout.element_bytes;
    }
    const void* weights = pointers.prepared != nullptr ? pointers.prepared : prepared;
    plan.path->convolve({&plan, &pointers, from, weights, first, count}, part, parts);
  }
};

i64 run_conv(const ConvPlan* plan, const ConvPointers& pointers, i64 most_threads) {
  double seconds = plan->seconds;
  if (plan->spec.weight.dtype != kBits) seconds += pack_seconds(plan->spec.weight);
  const i64 threads = threads_for(seconds, most_threads);
  const i64 image_bytes = plan->image_pitch * plan->path->layout.element_bytes;
  // What one thread reads of a pass's activations stays in its second-level cache.
  const i64 images = plan->in_place
                         ? plan->batch
                         : smaller(plan->batch, larger<i64>(1, (threads << 20) / image_bytes));
  Scratch scratch;
  const i64 activation_bytes = plan->in_place ? 0 : images * image_bytes;
  const bool prepare = pointers.prepared == nullptr;
  const bool pack = prepare && plan->spec.weight.dtype != kBits;
  u8* memory[3];
  const i64 bytes[3] = {activation_bytes, pack ? weight_words(*plan) * 4 : 0,
                        prepare ? plan->prepared_bytes : 0};
  if (!scratch.take(bytes, memory)) return kNoMemory;
  Running running{*plan,     pointers, images, memory[0], reinterpret_cast<u32*>(memory[1]),
                  memory[2], {}};
  run_team(threads, [&](i64 part, i64 parts) { running.work(part, parts); });
  return running.stale.raised() ? kStale : kDone;
}

}  // namespace

#define BINOP_API extern "C" __attribute__((visibility("default")))

BINOP_API i64 binop_cpu_paths() { return kPathCount; }

BINOP_API const char* binop_cpu_path_name(i64 path) { return kPaths[path]->name; }

BINOP_API i64 binop_cpu_path_runs(i64 path) { return kPaths[path]->runs(); }

BINOP_API i64 binop_cpu_plan_bytes(const ConvSpec* spec) { return plan_bytes(*spec); }

BINOP_API void binop_cpu_plan(const ConvSpec* spec, void* memory) { make_plan(*spec, memory); }

BINOP_API i64 binop_cpu_prepared_bytes(const ConvPlan* plan) { return plan->prepared_bytes; }

BINOP_API void binop_cpu_prepare(const ConvPlan* plan, const void* packed, void* prepared,
                                 i64 threads) {
  const double seconds = static_cast<double>(plan->prepared_bytes) * 1e-9;
  run_team(threads_for(seconds, threads),
           [=](i64 part, i64 parts) { plan->path->prepare(*plan, packed, prepared, part, parts); });
}

BINOP_API i64 binop_cpu_conv(const ConvPlan* plan, const void* x, const void* weight,
                             const void* raw, const void* prepared, void* out, const void* scale_a,
                             const void* scale_w, const void* bias, const void* threshold,
                             const void* flip, const Norm* norm, i64 most_threads) {
  return run_conv(
      plan, {x, weight, raw, prepared, out, scale_a, scale_w, bias, threshold, flip, norm, nullptr},
      most_threads);
}

// Of a packed weight, in the dtypes of binary_conv2d_residual.
BINOP_API i64 binop_cpu_conv_residual(const ConvPlan* plan, const void* x, const void* weight,
                                      const void* raw, const void* prepared, void* y, void* signs,
                                      const void* scale, const float* norm, const void* values,
                                      const float* activation, const float* shift,
                                      i64 most_threads) {
  const Residual residual = {values, norm, activation, shift, static_cast<u32*>(signs)};
  return run_conv(
      plan,
      {x, weight, raw, prepared, y, nullptr, scale, nullptr, nullptr, nullptr, nullptr, &residual},
      most_threads);
}

// What a norm would make of `pixels` rows of a value per channel.
BINOP_API void binop_cpu_normalize(i64 path, const Norm* norm, i64 channels, i64 pixels,
                                   float* values) {
  for (i64 i = 0; i < pixels; ++i) {
    kPaths[path]->normalize(*norm, 0, channels, values + i * channels);
  }
}

BINOP_API void binop_cpu_pack(const PackSpec* spec, const void* x, void* signs, void* mask,
                              const void* scale, i64 threads) {
  const Path& path = *kPaths[spec->path];
  const PackJob job = pack_words(spec->x, x, signs);
  PackJob masked = pack_words(spec->x, x, mask);
  masked.mask = 1;
  if (mask != nullptr) masked.none = !clip_pattern(*spec, scale, &masked.most);
  run_team(threads_for(pack_seconds(spec->x), threads), [&](i64 part, i64 parts) {
    path.pack(job, part, parts);
    if (mask != nullptr) path.pack(masked, part, parts);
  });
}

BINOP_API void binop_cpu_unpack(const UnpackSpec* spec, const void* packed, void* out,
                                i64 threads) {
  const double seconds = static_cast<double>(spec->pixels * spec->channels) * 0.5e-9;
  run_team(threads_for(seconds, threads), [=](i64 part, i64 parts) {
    kPaths[spec->path]->unpack(*spec, packed, out, part, parts);
  });
}

// Operations done by all threads, or 0 where the path has no such way. `usual`: see Path.
BINOP_API double binop_cpu_peak(i64 path, i64 usual, i64 steps, i64 threads) {
  const auto peak = usual ? kPaths[path]->usual_peak : kPaths[path]->peak;
  if (peak == nullptr) return 0;
  std::atomic<i64> members{0};
  run_team(threads, [&](i64, i64) {
    peak(steps);
    members.fetch_add(1, std::memory_order_relaxed);
  });
  return static_cast<double>(members.load() * steps) * peak(1);
}
