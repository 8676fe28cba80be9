// A path made of a kernel.
#pragma once

#include <utility>

#include "conv.h"
#include "pack.h"
#include "prepare.h"

namespace BINOP_PATH {

// The innermost instructions on registers alone, as many as a register tile has at once. The
// operands are loaded from the first-level cache, as there.
template <class Kernel>
double peak(i64 steps) {
  constexpr int kVectors = Kernel::kVectors;
  constexpr int kPixels = Kernel::kPixels;
  constexpr i64 kSteps = 63;  // what every kernel takes without widening, and its operands fit
  alignas(64) static const u8 weights[kSteps * kVectors * Kernel::kVectorBytes] = {};
  alignas(64) static const u8 activations[kPixels][kSteps * 4] = {};
  alignas(64) i32 totals[kPixels * kVectors * Kernel::kLanes];
  const u8* pixel[kPixels];
  for (int p = 0; p < kPixels; ++p) pixel[p] = activations[p];
  typename Kernel::template Counter<kPixels, kVectors> counter(totals);
  i64 done = 0;
  for (; done < steps; done += kSteps) {
    asm volatile("" ::: "memory");
    counter.run(pixel, 0, weights, kSteps);
  }
  counter.finish();
  asm volatile("" : : "r"(totals) : "memory");
  return 2.0 * static_cast<double>(done) * Kernel::kElementChannels * Kernel::kLanes * kVectors *
         kPixels;
}

template <class Kernel>
constexpr Path path_of(const char* name, bool (*runs)()) {
  return {name,
          runs,
          {sizeof(typename Kernel::Element), Kernel::kElementChannels, Kernel::kLanes,
           Kernel::kVectors, Kernel::kVectorBytes, Kernel::kPixels},
          pack_share,
          unpack_share,
          Operands<Kernel>::pad,
          Operands<Kernel>::expand,
          Operands<Kernel>::prepare,
          Convolution<Kernel>::convolve,
          peak<Kernel>};
}

}  // namespace BINOP_PATH
