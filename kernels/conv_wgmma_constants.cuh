// What the epilogue needs of a channel, in shared memory (Layout of the kernel's tile header, which
// stands before).
#pragma once

#include "conv_wgmma_channels.cuh"

// Of float output, what is left to do with a sum of popc(a & b) begins with one fused multiply-add
// with this, exact because all numbers are small integers times a power of two
// (conv_wgmma_store.cuh).
__device__ inline float float_entry(int counted) { return static_cast<float>(counted) * 0x1p-24f; }

// NARROW, it is made of half a word: those bits after 0x3F00 are a float, 0.5 + half * 2**-24.
constexpr int kNarrowZero = 1 << 15;  // the half of 0
constexpr float kNarrowOffset = 0x1p23f + kNarrowZero;

__device__ inline u32 narrow_entries(const int (&counted)[2]) {
  return pair_of(counted[0] + kNarrowZero, counted[1] + kNarrowZero);
}

// The first channel of a consumer's thread, of Threads, each of which takes every Threads-th: the
// last have the first channels, because they have fewer filters to load. (Past the tile: none.)
template <int Threads>
__device__ inline int first_channel_of(int thread) {
  constexpr int kBefore = Threads > TILE_N ? Threads - TILE_N : 0;
  return thread >= kBefore ? thread - kBefore : TILE_N;
}

// The constants of a channel go to shared memory; the threshold of a packed output is returned.
template <class Out>
__device__ inline int write_constants(const ConvArguments& a, const Channels& channels, int channel,
                                      u32 shared) {
  const bool exists = channel < channels.count;
  if constexpr (Channel<Out>::kPacked) {
    Channel<Out> loaded = {0, 0};
    if (exists) loaded = Channel<Out>::load(a, channels.first + channel);
    const u32 existing = __ballot_sync(kAllLanes, exists);
    // The products' signs say "below"; without a flip that is a clear bit.
    const u32 toggle = __ballot_sync(kAllLanes, loaded.at_least);
    if (threadIdx.x % 32 == 0) {
      store_shared(shared + Layout::kToggle + channel / kWordBits * 4, toggle);
      store_shared(shared + Layout::kExists + channel / kWordBits * 4, existing);
    }
    return loaded.threshold;
  } else {
    Channel<Out> loaded = {0.0f, 0.0f};
    if (exists) loaded = Channel<Out>::load(a, channels.first + channel);
    store_shared(shared + Layout::kAlpha + 4 * channel, __float_as_uint(loaded.alpha));
    store_shared(shared + Layout::kAddend + 4 * channel, __float_as_uint(loaded.addend));
    return 0;
  }
}
