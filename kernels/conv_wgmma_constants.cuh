// What the epilogue needs of a channel, in shared memory (Layout of the kernel's tile header, which
// stands before).
#pragma once

#include "conv_wgmma_channels.cuh"

// dot >= threshold  <=>  2 popc(a & b) - popc(a) >= this.
__device__ inline int least_difference(int counted, int threshold) {
  return (threshold - counted + 1) >> 1;
}

// What is left to do with a sum of popc(a & b) is one fused multiply-add with the table's entry,
// exact because all numbers are small integers times a power of two (conv_wgmma_store.cuh).
template <class Out>
__device__ inline float table_entry(int counted, int threshold) {
  if constexpr (Channel<Out>::kPacked) {
    return static_cast<float>(-least_difference(counted, threshold)) * 0x1p-23f;
  } else {
    return static_cast<float>(counted) * 0x1p-24f;
  }
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
