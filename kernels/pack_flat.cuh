// pack where channels are innermost and fill whole words: the tensor is one line of elements, and
// 32 consecutive ones form a word. Memory-bound: each lane loads 16 bytes at a time, coalesced.
#pragma once

#include "pack.cuh"

constexpr int kVector = 16 / sizeof(Bits);   // elements of one load
constexpr int kLanes = kWordBits / kVector;  // lanes whose loads form one word
constexpr int kWordsPerLoad = 32 / kLanes;   // words that one load of a warp covers

union Loaded {
  uint4 vector;
  Bits elements[kVector];
  u32 words[4];
};

// Bit i to bit 2i, for 16 bits.
__device__ inline u32 spread(u32 bits) {
  bits = (bits | (bits << 8)) & 0x00FF00FFu;
  bits = (bits | (bits << 4)) & 0x0F0F0F0Fu;
  bits = (bits | (bits << 2)) & 0x33333333u;
  return (bits | (bits << 1)) & 0x55555555u;
}

// The bits of this lane's 32 elements, in the order of the loads.
__device__ inline Packed pack_elements(const Loaded (&loaded)[kLanes], ClipBound bound) {
  Packed packed;
  if constexpr (sizeof(Bits) == 2) {
    const u32 slack = pair_slack(bound);
    PackedPairs pairs;
#pragma unroll
    for (int i = 0; i < kLanes; ++i) {
#pragma unroll
      for (int w = 0; w < 4; ++w) pairs.push(loaded[i].words[w], slack);
    }
    packed.signs = spread(pairs.signs & 0xFFFFu) | (spread(pairs.signs >> 16) << 1);
    packed.mask = spread(pairs.mask & 0xFFFFu) | (spread(pairs.mask >> 16) << 1);
  } else {
#pragma unroll
    for (int i = 0; i < kLanes; ++i) {
#pragma unroll
      for (int e = 0; e < kVector; ++e) packed.set(i * kVector + e, loaded[i].elements[e], bound);
    }
  }
  return packed;
}

// Lane l of each kLanes neighbours holds piece l of kLanes words; afterwards it holds word l.
// A butterfly: in step s, lanes that differ in bit s exchange the pieces that differ in bit s.
__device__ inline u32 transpose_pieces(u32 pieces, int lane) {
#pragma unroll
  for (int step = 1; step < kLanes; step *= 2) {
    const int shift = step * kVector;
    u32 low = 0;  // pieces whose index has bit `step` clear
#pragma unroll
    for (int piece = 0; piece < kLanes; ++piece) {
      if ((piece & step) == 0)
        low |= (kVector < 32 ? (1u << kVector) - 1u : ~0u) << (piece * kVector);
    }
    const u32 other = __shfl_xor_sync(kAllLanes, pieces, step);
    pieces = (lane & step) ? (pieces & ~low) | ((other >> shift) & low)
                           : (pieces & low) | ((other << shift) & ~low);
  }
  return pieces;
}

__device__ inline void pack_flat(const PackArguments& a, i64 block) {
  const int lane = threadIdx.x % 32;
  const i64 words = a.pixels * a.groups * a.group_words;
  const i64 first = block * kThreads + threadIdx.x - lane;
  const uint4* source = reinterpret_cast<const uint4*>(a.x) + first * kLanes;

  Loaded loaded[kLanes];
#pragma unroll
  for (int i = 0; i < kLanes; ++i) {
    const bool inside = first + i * kWordsPerLoad + lane / kLanes < words;
    loaded[i].vector = inside ? __ldcs(source + i * 32 + lane) : make_uint4(0, 0, 0, 0);
  }

  Packed packed = pack_elements(loaded, clip_bound(a));
  packed.signs = transpose_pieces(packed.signs, lane);
#if MASK
  packed.mask = transpose_pieces(packed.mask, lane);
#endif
  const i64 word = first + (lane % kLanes) * kWordsPerLoad + lane / kLanes;
  if (word < words) packed.store(a, word);
}
