// What the layouts of pack share. Compiled with -DELEMENT=<element type> and -DMASK=<0 or 1>:
// MASK adds the clip mask, abs(x) <= clip * abs(scale_a), as a second packed output.
//
// With groups, every group of channels starts a new word (the layout of the weights), so that
// groups of any channel count can be convolved.
#pragma once

#include "bits.cuh"

using Bits = ELEMENT::Bits;

constexpr int kThreads = 256;

struct PackArguments {
  const Bits* x;
  u32* signs;
  u32* mask;
  const void* scale_a;
  const void* filters;  // a second tensor, packed by the first blocks (pack_filters.cuh)
  u32* filter_bits;
  i64 scale_a_dtype;
  double clip;
  i64 pixels;  // images * height * width
  i64 plane;   // height * width
  i64 width;
  i64 groups;
  i64 group_channels;
  i64 group_words;
  i64 stride_image;  // strides in elements
  i64 stride_channel;
  i64 stride_row;
  i64 stride_column;
  i64 block_words;  // pack_planes: words of a pixel that one block packs, 1 or 2
  i64 word_blocks;
  i64 by_word_blocks;  // for divide_by
  i64 by_group_words;
  i64 by_plane;
  i64 filter_blocks;
  i64 filter_count;
  i64 filter_channels;
  i64 filter_rows;
  i64 filter_columns;
  i64 filter_stride;  // in elements
  i64 filter_stride_channel;
  i64 filter_stride_row;
  i64 filter_stride_column;
  i64 filter_element_bytes;
  i64 filter_infinity;  // as in the element types of types.cuh
  i64 filter_minus_zero;
  i64 by_filter_words;
};

__device__ inline ClipBound clip_bound(const PackArguments& a) {
#if MASK
  return ClipBound::from(a.clip, load_scale(a.scale_a, 0, a.scale_a_dtype));
#else
  return {0};
#endif
}

// Bits of one or more values: where they are positive, and where they pass the clip.
struct Packed {
  u32 signs = 0;
  u32 mask = 0;

  __device__ void set(int position, u32 value, ClipBound bound) {
    signs |= static_cast<u32>(is_nonnegative<ELEMENT>(value)) << position;
#if MASK
    mask |= static_cast<u32>(bound.passes<ELEMENT>(value)) << position;
#endif
  }

  __device__ void store(const PackArguments& a, i64 word) const {
    a.signs[word] = signs;
#if MASK
    a.mask[word] = mask;
#endif
  }
};

// Answers about 16 pairs of 16-bit floats, the first pair's in bits 0 and 16.
struct PackedPairs {
  u32 signs = 0;
  u32 mask = 0;

  __device__ void push(u32 pair, u32 slack) {
    signs = shift_in(signs, pair_is_nonnegative<ELEMENT>(pair));
#if MASK
    mask = shift_in(mask, ClipBound::pair_passes(pair, slack));
#endif
  }

  static __device__ u32 shift_in(u32 answers, u32 tops) {
    return ((answers >> 1) & ~kPairTops) | (tops & kPairTops);
  }
};

__device__ inline u32 pair_slack(ClipBound bound) {
#if MASK
  if constexpr (sizeof(Bits) == 2) return bound.pair_slack<ELEMENT>();
#endif
  return 0;
}
