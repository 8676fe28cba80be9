// A path made of a kernel.
#pragma once

#include <utility>

#include "conv.h"
#include "pack.h"
#include "prepare.h"

namespace BINOP_PATH {

// The innermost instructions alone, with weights from the first-level cache: operations done.
template <class Kernel>
double peak(i64 steps) {
  constexpr int kActivations = 2;
  constexpr int kWeights = 4;
  alignas(64) u8 weights[kWeights * Kernel::kVectorBytes] = {};
  alignas(64) typename Kernel::Element activations[64] = {};
  asm volatile("" : : "r"(weights), "r"(activations) : "memory");
  typename Kernel::Vector sum[kActivations][kWeights];
  typename Kernel::Vector activation[kActivations];
  for (int a = 0; a < kActivations; ++a) {
    activation[a] = Kernel::activation(activations + 16 * a);
    for (int w = 0; w < kWeights; ++w) sum[a][w] = Kernel::zero();
  }
  for (i64 step = 0; step < steps; ++step) {
    asm volatile("" : : : "memory");  // load them again
#pragma GCC unroll 8
    for (int w = 0; w < kWeights; ++w) {
      const auto weight = Kernel::weight(weights + w * Kernel::kVectorBytes);
#pragma GCC unroll 8
      for (int a = 0; a < kActivations; ++a) {
        sum[a][w] = Kernel::step(sum[a][w], activation[a], weight);
      }
    }
  }
  // A copy: sums whose address is known would be stored in every step.
  typename Kernel::Vector kept[kActivations][kWeights];
  for (int a = 0; a < kActivations; ++a) {
    for (int w = 0; w < kWeights; ++w) kept[a][w] = sum[a][w];
  }
  asm volatile("" : : "r"(&kept[0][0]) : "memory");
  return 2.0 * static_cast<double>(steps) * Kernel::kElementChannels * Kernel::kLanes *
         kActivations * kWeights;
}

template <class Kernel>
constexpr Path path_of(const char* name, bool (*runs)(), double (*usual_peak)(i64) = nullptr) {
  return {name,
          runs,
          {sizeof(typename Kernel::Element), Kernel::kElementChannels, Kernel::kLanes,
           Kernel::kVectors, Kernel::kVectorBytes, Kernel::kPixels, Kernel::kSkipsEdges},
          pack_share,
          unpack_share,
          Operands<Kernel>::pad,
          Operands<Kernel>::expand,
          Operands<Kernel>::prepare,
          Convolution<Kernel>::convolve,
          normalize,
          peak<Kernel>,
          usual_peak};
}

}  // namespace BINOP_PATH
