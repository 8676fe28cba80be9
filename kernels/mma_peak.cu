// What 1-bit mma.sync reaches at most.
#include "peak.cuh"
#include "tensor_core.cuh"

constexpr int kBlocks = 2;  // of a multiprocessor: four warps a scheduler
// Independent sums of a warp, more than products are under way at once.
constexpr int kRows = 4;     // fragments of a, 16 rows each
constexpr int kColumns = 4;  // of b, 8 columns each

// The words are [4 * kRows + 2 * kColumns][32 lanes].
extern "C" __global__ void __launch_bounds__(kThreads, kBlocks)
    mma_peak(const __grid_constant__ PeakArguments p) {
  const u32* words = p.words + threadIdx.x % 32;
  u32 a[kRows][4];
  u32 b[kColumns][2];
#pragma unroll
  for (int i = 0; i < kRows * 4; ++i) a[i / 4][i % 4] = words[i * 32];
#pragma unroll
  for (int n = 0; n < kColumns * 2; ++n) b[n / 2][n % 2] = words[(kRows * 4 + n) * 32];
  int sums[kRows * kColumns][4] = {};
#pragma unroll 1
  for (int round = static_cast<int>(p.rounds); round > 0; --round) {
#pragma unroll
    for (int i = 0; i < kRows * kColumns; ++i) {
      multiply_bits(sums[i], a[i / kColumns], b[i % kColumns][0], b[i % kColumns][1]);
    }
  }
  int totals[kRows * kColumns];
#pragma unroll
  for (int i = 0; i < kRows * kColumns; ++i) {
    totals[i] = sums[i][0] + sums[i][1] + sums[i][2] + sums[i][3];
  }
  store_total(p, totals);
}
