// Set bits of several words. A multiprocessor counts the bits of 16 words a cycle, where it takes
// 64 logical operations: so words are added bit by bit before they are counted.
#pragma once

#include "types.cuh"

__device__ inline u32 sum_bits(u32 a, u32 b, u32 c) { return a ^ b ^ c; }
__device__ inline u32 carry_bits(u32 a, u32 b, u32 c) { return (a & b) | (c & (a | b)); }

__device__ inline int count_words(u32 a, u32 b, u32 c, u32 d) {
  const u32 ones = sum_bits(a, b, c);
  return __popc(ones ^ d) + 2 * (__popc(carry_bits(a, b, c)) + __popc(ones & d));
}

template <int Count>
__device__ inline int count_words(const u32* words) {
  if constexpr (Count == 16) {
    return count_words<8>(words) + count_words<8>(words + 8);
  } else if constexpr (Count == 8) {
    const u32 first = sum_bits(words[0], words[1], words[2]);
    const u32 second = sum_bits(first, words[3], words[4]);
    const u32 ones = sum_bits(second, words[5], words[6]);
    const u32 twos[4] = {carry_bits(words[0], words[1], words[2]),
                         carry_bits(first, words[3], words[4]),
                         carry_bits(second, words[5], words[6]), ones & words[7]};
    const u32 of_twos = sum_bits(twos[0], twos[1], twos[2]);
    return __popc(ones ^ words[7]) + 2 * __popc(of_twos ^ twos[3]) +
           4 * (__popc(carry_bits(twos[0], twos[1], twos[2])) + __popc(of_twos & twos[3]));
  } else if constexpr (Count == 4) {
    return count_words(words[0], words[1], words[2], words[3]);
  } else {
    int set = 0;
#pragma unroll
    for (int i = 0; i < Count; ++i) set += __popc(words[i]);
    return set;
  }
}
