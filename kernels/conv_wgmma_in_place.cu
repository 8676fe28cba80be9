// Convolution with stride 1 on Hopper's warpgroup-wide 1-bit matrix products (sm_90a), which read
// the padded image where it lies in shared memory: rows are places of that image, one after the
// other, so that a tap is another address of the same patch. Columns are output channels, and the
// depth runs over channels and taps.
//
//   dot = sum over the taps inside of (group_channels - 2 popc(b)) - 2 popc(a) + 4 popc(a & b)
//
// The first term comes from a table of border classes; popc(a) from columns of ones. Nothing passes
// through the consumers' registers but sums. Each consumer has tiles of its own, and they multiply
// in turn: one stores while another's products run. What it costs are the places between rows and
// between images, which are multiplied too.
#define IN_PLACE 1
#include "conv_wgmma_tile.cuh"
// (After the tile.)
#include "conv_wgmma_block.cuh"
#include "conv_wgmma_copies.cuh"
#include "conv_wgmma_epilogue.cuh"
// (After the epilogue.)
#include "conv_wgmma_in_place_patch.cuh"
#include "conv_wgmma_weights.cuh"
#include "overlap.cuh"

// A slab's steps as RowTile has them, from the tile's first place on.
struct StepPlaces {
  u32 low[kSteps];

  static __device__ StepPlaces of(const WgmmaArguments& a) {
    const ChunkSteps steps = ChunkSteps::of(a);
    StepPlaces places;
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      const int first = steps.offset(2 * k);
      places.low[k] = RowTile::at(first, steps.offset(2 * k + 1) - first).low;
    }
    return places;
  }
};

// The sums are valid after wait_products.
__device__ inline void multiply(u32 patch, const StepPlaces& places, FilterTile<kColumns> filters,
                                bool first, Sums& sums) {
  begin_products();
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
    multiply_async(sums, RowTile{(patch >> 4) + places.low[k]}, filters, k > 0 || !first);
    filters.low += FilterTile<kColumns>::kStep;
  }
  commit_products();
}

// Consumers multiply in turn: a named barrier each, at which the one before it arrives.
constexpr int kFirstTurn = 2;

__device__ inline void wait_for_turn(int consumer) {
  if constexpr (CONSUMERS > 1) sync_threads<2 * kWarpgroup>(kFirstTurn + consumer);
}

__device__ inline void pass_turn(int consumer) {
  if constexpr (CONSUMERS > 1) {
    arrive_threads<2 * kWarpgroup>(kFirstTurn + (consumer + 1 == CONSUMERS ? 0 : consumer + 1));
  }
}

// So many consumers multiply at once; the others, whose turn has not come, make the table
// meanwhile.
constexpr int kMultiply = CONSUMERS > 1 && kThroughRegisters ? 1 : 0;

__device__ void consume(const Work& work, int consumer) {
  const WgmmaArguments& a = work.a;
  const int slabs = static_cast<int>(a.slabs);
  const int tiles = static_cast<int>(a.pixel_tiles);
  const int warp_row = threadIdx.x % kWarpgroup / 32 * 16;  // of a block
  const StepPlaces places = StepPlaces::of(a);

  prepare_filters<OUT>(a, work.channels, work.first_tile, work.layout, work.shared, work.dynamic);
  if (consumer >= kMultiply) {
    build_table<OUT, kMultiply>(a, work.layout, work.shared, work.dynamic);
  }

  Stage stage;
  stage.advance(a, consumer * slabs);
#pragma unroll 1
  for (int tile = work.first_tile + consumer * work.walkers; tile < tiles;
       tile += CONSUMERS * work.walkers) {
    LaneRows rows[BLOCKS];
    Sums sums[BLOCKS];
    FilterTile<kColumns> filters = FilterTile<kColumns>::at(work.shared + work.layout.filters);
    u32 read = 0;  // the barrier of the patch that products read
    if (tile != work.first_tile) wait_for_turn(consumer);
#pragma unroll 1
    for (int slab = 0; slab < slabs; ++slab) {
      wait_barrier(work.shared + Layout::kFull + 8 * stage.index, stage.phase);
      const u32 patch = stage.patch(a, work.shared + work.layout.patches);
      const bool passes = slab + 1 == slabs && tile + work.walkers < tiles;
#pragma unroll
      for (int block = 0; block < BLOCKS; ++block) {
        // Before the last products, unless they are all: the next consumer's shall be there when
        // these end.
        const bool last = block + 1 == BLOCKS;
        if (last && passes && (BLOCKS > 1 || slabs > 1)) pass_turn(consumer);
        multiply(patch + block * (kProductM * kChunkBytes), places, filters, slab == 0,
                 sums[block]);
        if (last && passes && BLOCKS == 1 && slabs == 1) pass_turn(consumer);
      }
      if (slab == 0) {
        const u32 words = patch + PLANES * static_cast<int>(a.plane_bytes);
#pragma unroll
        for (int block = 0; block < BLOCKS; ++block) {
          read_rows(RowWords::at(words, block * kProductM + warp_row), 0, rows[block]);
        }
      } else {
        wait_products<BLOCKS>();
        arrive_for_warp(read);
      }
      read = work.shared + Layout::kEmpty + 8 * stage.index;
      stage.advance(a);
      filters.low += kSteps * FilterTile<kColumns>::kStep;
    }
    if (tile < work.first_tile + CONSUMERS * work.walkers) {  // this consumer's first
      wait_barrier(work.shared + Layout::kTabled, 0);
    }
    // For all blocks at once, although the second's need not be done before the first is stored
    // (see wait_products).
    wait_products(sums[0], sums[BLOCKS - 1]);
    arrive_for_warp(read);
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        rows[block].set[half] = sums[block].values[kSetSum + 2 * half];
      }
      TileEpilogue().store(a, work.channels, work.shared, rows[block], sums[block]);
    }
    stage.advance(a, (CONSUMERS - 1) * slabs);
  }
}

extern "C" __global__ void __launch_bounds__(kThreads, 1)
    conv_wgmma_in_place(const __grid_constant__ KernelArguments a) {
  extern __shared__ __align__(128) u8 dynamic[];
  const Work work = Work::of(a, dynamic);
  init_barriers<Layout>(a, work.shared, 32, 4, kConsumerThreads - kMultiply * kWarpgroup);
  begin_counting(a, work.shared + work.layout.counted);
  __syncthreads();
  wait_for_launch_before();

  // The same in all lanes, and known to be.
  const int warp = __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / 32, 0);
  if (warp < kProducers) {
    if constexpr (CONSUMERS > 1) give_registers<kProducerRegisters>();
    if (threadIdx.x == 0 && a.copied_bytes > 0) {
      copy_filters(a, work.channels, kTaps * static_cast<int>(a.group_words),
                   work.shared + work.layout.copies, work.shared + Layout::kCopied);
    }
    __syncwarp();
    produce(work, warp);
  } else {
    if constexpr (CONSUMERS > 1) take_registers<kConsumerRegisters>();
    consume(work, warp / 4 - 1);
  }
}
