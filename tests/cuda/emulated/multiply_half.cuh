// Stands in for kernels/multiply_half.cuh. Products are exact in float32 (16-bit floats have 11
// bits at most), and sums are rounded one by one.
#pragma once

#include "types.cuh"

template <class Element>
inline void multiply_half(float (&sums)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  const auto* all =
      emulated::exchange({static_cast<u64>(a[0]), static_cast<u64>(a[1]), static_cast<u64>(a[2]),
                          static_cast<u64>(a[3]), static_cast<u64>(b0), static_cast<u64>(b1)});
  const int row = emulated::lane() / 4;
  const int column = emulated::lane() % 4 * 2;
  const auto half = [](u64 pair, int i) {
    return Element::to_float(static_cast<typename Element::Bits>(pair >> 16 * i));
  };
  for (int i = 0; i < 4; ++i) {
    for (int depth = 0; depth < 16; ++depth) {
      const int lane = depth % 8 / 2;
      const u64 of_a = all[row * 4 + lane][depth / 8 * 2 + i / 2];
      const u64 of_b = all[(column + i % 2) * 4 + lane][4 + depth / 8];
      sums[i] += half(of_a, depth % 2) * half(of_b, depth % 2);
    }
  }
}
