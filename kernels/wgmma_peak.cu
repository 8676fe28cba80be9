// What 1-bit wgmma (sm_90a) reaches at most with one operand in registers, as conv_wgmma has it.
#include "multiply_wide.cuh"
#include "peak.cuh"

constexpr int kColumns = 256;
constexpr int kProducts = 8;  // of a round; meanwhile the other warpgroup may wait for its own
constexpr int kFilterWords = kColumns * 8;

// The words are [4][32 lanes], then those of a FilterTile.
extern "C" __global__ void __launch_bounds__(kThreads, 1)
    wgmma_peak(const __grid_constant__ PeakArguments p) {
  extern __shared__ __align__(128) u8 dynamic[];
  const u32 filters = shared_address(dynamic);
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < kFilterWords; i += kThreads) {
    store_shared(filters + i * 4, p.words[4 * 32 + i]);
  }
  u32 a[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) a[i] = p.words[i * 32 + threadIdx.x % 32];
  ProductSums<kColumns> sums = {};
  publish_to_products();
  __syncthreads();
#pragma unroll 1
  for (int round = static_cast<int>(p.rounds); round > 0; --round) {
    begin_products();
#pragma unroll
    for (int i = 0; i < kProducts; ++i) {
      multiply_async(sums, a, FilterTile<kColumns>::at(filters), 1);
    }
    commit_products();
    wait_products(sums);
  }
  store_total(p, sums.values);
}
