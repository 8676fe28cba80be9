// Convolution on the 1-bit tensor cores (sm_80 and newer) as an implicit matrix product: rows are
// output pixels, columns output channels, and the depth runs over taps and words of channels.
//
// A block keeps its channels and walks over tiles of pixels, so that the border table is made
// once. popc(a) is counted on the fragments; the warps that share rows take turns at it.
#include "conv_mma_load.cuh"
#include "conv_mma_store.cuh"
#include "conv_mma_table.cuh"

constexpr int kBlocksPerMultiprocessor = 512 / kThreads;

// Where this lane's matrix loads start in a stage, in bytes. The permutation of the chunks makes a
// later step's address that of the first with bits 5 and 6 flipped; 16 rows further it is the same.
struct Fragments {
  u32 a;
  u32 b;

  static __device__ Fragments of_lane() {
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    const int a_row = warp / kWarpsN * WARP_M + lane % 16;
    const int b_row = warp % kWarpsN * kWarpN + lane / 16 * 8 + lane % 8;
    Fragments fragments = {4u * stage_offset(a_row, lane / 16 * 4),
                           4u * (TILE_M * kStageWords + stage_offset(b_row, lane / 8 % 2 * 4))};
    keep(fragments.a);
    keep(fragments.b);
    return fragments;
  }
};

constexpr int kSteps = kStageWords / kStepWords;
constexpr u32 kNextRows = 16 * kStageWords * 4;  // bytes from one fragment to the next

__device__ void multiply_stage(u32 stage, const Fragments& fragments, int steps, int first_step,
                               Sums& sums, int (&set_bits)[kProductsM][2]) {
  const int warp_n = threadIdx.x / 32 % kWarpsN;
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    if (step >= steps) break;
    const u32 a_address = stage + (fragments.a ^ (step * 32));
    const u32 b_address = stage + (fragments.b ^ (step * 32));
    u32 b[2][4];
    load_matrices(b[0], b_address);
    load_matrices(b[1], b_address + kNextRows);
    u32 a[kProductsM][4];
#pragma unroll
    for (int i = 0; i < kProductsM; ++i) {
      load_matrices(a[i], a_address + i * kNextRows);
#pragma unroll
      for (int n = 0; n < kProductsN; ++n) {
        multiply_bits(sums[i][n], a[i], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
      }
    }
    // In one piece, so that it becomes a branch: predicated, all warps would issue it each time.
    if ((first_step + step) % kWarpsN == warp_n) {
#pragma unroll
      for (int i = 0; i < kProductsM; ++i) {
        set_bits[i][0] += __popc(a[i][0]) + __popc(a[i][2]);
        set_bits[i][1] += __popc(a[i][1]) + __popc(a[i][3]);
      }
    }
  }
}

// Adds up popc(a) of each row over the lanes and warps that counted parts of it.
__device__ void share_row_bits(Shared& shared, const int (&set_bits)[kProductsM][2]) {
  const int lane = threadIdx.x % 32;
  const int first_row = threadIdx.x / 32 / kWarpsN * WARP_M + lane / 4;
#pragma unroll
  for (int i = 0; i < kProductsM; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int set = set_bits[i][half];
      set += __shfl_xor_sync(kAllLanes, set, 1);
      set += __shfl_xor_sync(kAllLanes, set, 2);
      if (lane % 4 == 0) atomicAdd(&shared.row_bits[first_row + i * 16 + half * 8], set);
    }
  }
  __syncthreads();
}

extern "C" __global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    conv_mma(const __grid_constant__ ConvArguments a) {
  extern __shared__ __align__(128) u8 dynamic[];
  Shared& shared = *reinterpret_cast<Shared*>(dynamic + kRingBytes);
  int* table = reinterpret_cast<int*>(dynamic + kRingBytes + sizeof(Shared));

  const int channel_tiles = static_cast<int>(a.channel_tiles);
  const int pixel_tiles = static_cast<int>(a.pixel_tiles);
  const Block block = Block::at(a, static_cast<int>(blockIdx.x) % channel_tiles);
  const u32* weight = a.weight + static_cast<i64>(block.first_channel) * a.filter_words;
  const int steps = (filter_words(a) + kStepWords - 1) / kStepWords;
  const int stages = (filter_words(a) + kStageWords - 1) / kStageWords;
  const u32 ring = shared_address(dynamic);
  const Fragments fragments = Fragments::of_lane();
  Loader loader = Loader::of_thread(shared);

  if (threadIdx.x < block.channels) {
    shared.channels[threadIdx.x] = Channel<OUT>::load(a, block.first_channel + threadIdx.x);
  }
  bool has_table = false;
  for (int tile = static_cast<int>(blockIdx.x) / channel_tiles; tile < pixel_tiles;
       tile += static_cast<int>(gridDim.x) / channel_tiles) {
    describe_rows(a, shared, block.group, static_cast<i64>(tile) * TILE_M);
    __syncthreads();
    loader.rewind(a);
#pragma unroll 1
    for (int s = 0; s < STAGES - 1; ++s) {
      if (s < stages) load_stage(a, loader, weight, block.channels, ring + s * kStageBytes);
      commit_copies();
    }
    if (!has_table) build_table(a, block, shared, table);
    has_table = true;

    Sums sums = {};
    int set_bits[kProductsM][2] = {};
#pragma unroll 1
    for (int s = 0; s < stages; ++s) {
      wait_copies<STAGES - 2>();
      __syncthreads();  // stage s has arrived for all threads, and all have used stage s - 1
      const int next = s + STAGES - 1;
      if (next < stages) {
        load_stage(a, loader, weight, block.channels, ring + next % STAGES * kStageBytes);
      }
      commit_copies();
      multiply_stage(ring + s % STAGES * kStageBytes, fragments, steps - s * kSteps, s * kSteps,
                     sums, set_bits);
    }
    share_row_bits(shared, set_bits);
    store_tile<OUT>(a, block, shared, table, static_cast<i64>(tile) * TILE_M, sums, dynamic);
    __syncthreads();
  }
}
