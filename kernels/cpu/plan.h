// All that follows from the sizes of a convolution, computed once per shape.
#pragma once

#include "path.h"

// One row or column of the output: where its first tap lies in the padded activations, and which
// of its taps [low, high) count.
struct Axis {
  i64 offset;
  i64 low;
  i64 high;
};

struct ConvPlan {
  ConvSpec spec;
  const Path* path;
  i64 batch, channels, height, width;
  i64 out_channels, kernel_h, kernel_w, out_h, out_w;
  // Small groups are joined, because each by itself would fill neither words nor vectors: `joined`
  // of them are one. A weight that is not of an output's own group must count nothing, and so there
  // are two copies of the weights, in which it is +1 and -1: the sum over both is twice the
  // convolution.
  i64 joined, copies;
  i64 own_channels, own_outputs, own_words;  // of a group as it was
  i64 groups, group_channels, group_outputs;
  i64 words;     // of a group's channels
  i64 elements;  // of a group's channels at one pixel
  // Activations, in elements. The image is padded on all sides.
  i64 pixel_pitch, row_pitch, image_pitch;
  i64 in_place;  // packed x serves as it is
  // The taps of one kernel row lie in `runs` runs of `run_length` elements.
  i64 runs, run_length, run_step, row_step;
  // Vectors of weights: a group's, and per vector the steps over all taps (of one copy, of all).
  i64 group_vectors, copy_steps, steps;
  i64 blocks;     // of all groups
  i64 with_sums;  // padding taps that do not count: the tap sums are needed
  i64 sums_offset, prepared_bytes;
  i64 tile;         // output pixels of a register tile
  i64 words_apart;  // blocks share no word of packed output
  double seconds;   // of one thread: a guess, to choose the number of threads
  Axis* rows;
  Axis* columns;
};

// A block: up to `vectors` vectors of output channels of one group.
struct Block {
  i64 group;
  i64 vectors;
  i64 first_vector;   // in the prepared weights
  i64 first_channel;  // in the output
  i64 channels;
};

inline Block block_at(const ConvPlan& plan, i64 index) {
  const Layout& layout = plan.path->layout;
  const i64 per_group = plan.blocks / plan.groups;
  const i64 group = index / per_group;
  const i64 first = (index - group * per_group) * layout.vectors;
  const i64 left = plan.group_vectors - first;
  const i64 vectors = left < layout.vectors ? left : layout.vectors;
  const i64 channel = first * layout.lanes;
  const i64 rest = plan.group_outputs - channel;
  return {group, vectors, group * plan.group_vectors + first, group * plan.group_outputs + channel,
          rest < vectors * layout.lanes ? rest : vectors * layout.lanes};
}

// Work of pack: bits of a float tensor into words, or into padded activations.
struct PackJob {
  Image x;
  const void* data;
  i64 groups;
  i64 first_image, images;
  // 0: the sign; else abs(x) <= the bound, as the largest pattern that passes.
  i64 mask;
  std::uint64_t most;
  bool none;  // no value passes
  // Where the element of a pixel goes: counted in elements of element_bytes.
  void* out;
  i64 element_bytes;
  i64 elements;  // of one group
  i64 image_pitch, row_pitch, pixel_pitch;
};

i64 plan_bytes(const ConvSpec& spec);
void make_plan(const ConvSpec& spec, void* memory);
