// pack of any strides and any channel count. A warp packs 32 consecutive words: its lanes read the
// channels of one word after the other, a ballot makes the word, and one store writes all 32.
#pragma once

#include "pack.cuh"

constexpr int kUnroll = 8;  // words whose loads are in flight together

__device__ inline void pack_strided(const PackArguments& a, i64 block) {
  const int lane = threadIdx.x % 32;
  const i64 pixel_words = a.groups * a.group_words;
  const i64 words = a.pixels * pixel_words;
  const i64 word = block * kThreads + threadIdx.x;

  // Where this lane's word starts, and how many channels it has.
  i64 start = 0;
  int channels = 0;
  if (word < words) {
    const i64 pixel = divide(word, pixel_words);
    const i64 position = word - pixel * pixel_words;
    const i64 group = divide(position, a.group_words);
    const i64 skipped = (position - group * a.group_words) * kWordBits;
    const i64 image = divide(pixel, a.plane);
    const i64 row = divide(pixel - image * a.plane, a.width);
    const i64 column = pixel - image * a.plane - row * a.width;
    start = image * a.stride_image + (group * a.group_channels + skipped) * a.stride_channel +
            row * a.stride_row + column * a.stride_column;
    const i64 left = a.group_channels - skipped;
    channels = static_cast<int>(left < kWordBits ? left : kWordBits);
  }

  const ClipBound bound = clip_bound(a);
  const Bits* source = a.x + lane * a.stride_channel;
  Packed packed;
#pragma unroll 1
  for (int first = 0; first < 32; first += kUnroll) {
    Bits values[kUnroll];
    bool valid[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const i64 offset = __shfl_sync(kAllLanes, start, first + i);
      valid[i] = lane < __shfl_sync(kAllLanes, channels, first + i);
      values[i] = valid[i] ? source[offset] : Bits(0);
    }
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const u32 signs = __ballot_sync(kAllLanes, valid[i] && is_nonnegative<ELEMENT>(values[i]));
      if (lane == first + i) packed.signs = signs;
#if MASK
      const u32 mask = __ballot_sync(kAllLanes, valid[i] && bound.passes<ELEMENT>(values[i]));
      if (lane == first + i) packed.mask = mask;
#endif
    }
  }
  if (word < words) packed.store(a, word);
}
