// Convolution on Hopper's warpgroup-wide 1-bit matrix products (sm_90a): rows are output pixels,
// columns output channels, and the depth runs over channels and taps.
//
// A block loads its filters into shared memory once and walks over tiles of output pixels. One
// warpgroup, the producers, copies patches of the image; the consumers share a tile, 64 pixels
// each: they read a tap's rows as fragments from anywhere in the patch (so that strides, dilations
// and small images waste nothing), multiply, and store while others' products run.
//
//   dot = sum over the taps inside of (group_channels - 2 popc(b)) - 2 popc(a) + 4 popc(a & b)
//
// The first term comes from a table of border classes; popc(a) is counted while products run.
#define IN_PLACE 0
#define BLOCKS 1
#include "conv_wgmma_tile.cuh"
// (After the tile.)
#include "conv_wgmma_block.cuh"
#include "conv_wgmma_copies.cuh"
#include "conv_wgmma_epilogue.cuh"
// (After the epilogue.)
#include "conv_wgmma_patch.cuh"
#include "conv_wgmma_ring.cuh"
#include "conv_wgmma_weights.cuh"
#include "overlap.cuh"

__device__ void produce(const Work& work) {
  const WgmmaArguments& a = work.a;
  const int slabs = static_cast<int>(a.slabs);
  const PatchLoader loader = PatchLoader::of(a);
  const BorderAxis rows = BorderAxis::rows_of(a);
  const BorderAxis columns = BorderAxis::columns_of(a);
  TileStart start = TileStart::at(a, work.first_tile * kTileM);
  Stage stage;
#pragma unroll 1
  for (int tile = work.first_tile; tile < static_cast<int>(a.pixel_tiles); tile += work.walkers) {
    const int patch_rows = patch_rows_of(a, start);
    const int stack_row = start.row * static_cast<int>(a.step_rows);
    const u32* image = a.x + start.image * (a.height * loader.row_words) +
                       static_cast<i64>(work.channels.group) * a.group_words;
#pragma unroll 1
    for (int slab = 0; slab < slabs; ++slab) {
      wait_barrier(work.shared + Layout::kEmpty + 8 * stage.index, stage.phase ^ 1);
      const u32 patch = stage.patch(a, work.shared + work.layout.patches);
      loader.load(a, image, stack_row, patch_rows, slab, patch);
      if (slab == 0)
        describe_rows(a, start, rows, columns, patch + PLANES * loader.entry.plane_bytes);
      const u32 full = work.shared + Layout::kFull + 8 * stage.index;
      arrive_after_copies(full);
      arrive(full);  // for what was stored without a copy
      stage.advance(a);
    }
    start.advance(a, static_cast<i64>(work.walkers) * kTileM);
  }
}

// The fragments of a slab, and its products.
struct Fragments {
  u32 registers[kSteps][4];

  // `row` is the one that this lane loads: of a step's first chunk, or of its second one.
  __device__ void load(u32 row, const ChunkSteps& steps) {
    const bool second = threadIdx.x % 32 >= 16;
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      const int first_offset = steps.offset(2 * k);
      load_matrices(registers[k], row + (second ? steps.offset(2 * k + 1) : first_offset));
    }
  }

  // Issues the products: the sums are valid after wait_products. Meanwhile it counts the set bits
  // of this lane's share of its two rows: a product takes so long to issue that this costs nothing.
  __device__ void multiply(FilterTile<TILE_N> filters, bool first, Sums& sums,
                           int (&set)[2]) const {
    begin_products();
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      multiply_async(sums, registers[k], filters, k > 0 || !first);
      filters.low += FilterTile<TILE_N>::kStep;
      const bool both = !kHalfStep || k < kSteps - 1;
      set[0] += count_bits(registers[k][0]) + (both ? count_bits(registers[k][2]) : 0);
      set[1] += count_bits(registers[k][1]) + (both ? count_bits(registers[k][3]) : 0);
    }
    commit_products();
  }
};

// Sums over the four lanes that share a row.
__device__ inline int sum_of_lanes(int value) {
  value += __shfl_xor_sync(kAllLanes, value, 1);
  return value + __shfl_xor_sync(kAllLanes, value, 2);
}

__device__ void consume(const Work& work, int consumer) {
  const WgmmaArguments& a = work.a;
  const int lane = threadIdx.x % 32;
  const int first_row = consumer * kProductM + threadIdx.x % kWarpgroup / 32 * 16;  // of the tile
  const int slabs = static_cast<int>(a.slabs);
  const ChunkSteps steps = ChunkSteps::of(a);

  prepare_filters<OUT>(a, work.channels, work.first_tile, work.layout, work.shared, work.dynamic);

  Stage stage;
#pragma unroll 1
  for (int tile = work.first_tile; tile < static_cast<int>(a.pixel_tiles); tile += work.walkers) {
    LaneRows rows;
    u32 place = 0;  // of the row that this lane loads, in a patch
    Sums sums;
    FilterTile<TILE_N> filters = FilterTile<TILE_N>::at(work.shared + work.layout.filters);
#pragma unroll 1
    for (int slab = 0; slab < slabs; ++slab) {
      wait_barrier(work.shared + Layout::kFull + 8 * stage.index, stage.phase);
      const u32 patch = stage.patch(a, work.shared + work.layout.patches);
      if (slab == 0) {
        const u32 words = patch + PLANES * static_cast<int>(a.plane_bytes);
        read_rows(RowWords::at(words, first_row), static_cast<i64>(tile) * kTileM + first_row,
                  rows);
        const u32 mine = RowWords::at(words, first_row + lane % 16);
        place = RowWords::entry_of(load_shared(mine)) * kChunkBytes;
      } else {
        wait_products();  // they read the registers that are loaded now
      }
      Fragments fragments;
      fragments.load(patch + place, steps);
      arrive_for_warp(work.shared + Layout::kEmpty + 8 * stage.index);
      fragments.multiply(filters, slab == 0, sums, rows.set);
      stage.advance(a);
      filters.low += kSteps * FilterTile<TILE_N>::kStep;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) rows.set[half] = sum_of_lanes(rows.set[half]);
    // Late: meanwhile the first products run.
    if (tile == work.first_tile) {
      build_table<OUT>(a, work.layout, work.shared, work.dynamic);
      wait_barrier(work.shared + Layout::kTabled, 0);
    }
    TileEpilogue epilogue;
    epilogue.begin(a, work.channels, rows);
    wait_products(sums);
    epilogue.store(a, work.channels, work.shared, rows, sums);
  }
}

// Parts of a patch that no copy reaches hold no channels.
__device__ inline void clear_patches(const WgmmaArguments& a, u32 patches) {
  const u32 end = patches + static_cast<u32>(a.stages * a.stage_bytes);
  for (u32 to = patches + threadIdx.x * kChunkBytes; to < end; to += kThreads * kChunkBytes) {
    fill_shared(to, 0);
  }
}

extern "C" __global__ void __launch_bounds__(kThreads, 1)
    conv_wgmma(const __grid_constant__ KernelArguments a) {
  extern __shared__ __align__(128) u8 dynamic[];
  const Work work = Work::of(a, dynamic);
  init_barriers<Layout>(a, work.shared, 2 * kWarpgroup, 4 * CONSUMERS, kConsumerThreads);
  if (a.slabs == 1) clear_patches(a, work.shared + work.layout.patches);
  begin_counting(a, work.shared + work.layout.counted);
  __syncthreads();
  wait_for_launch_before();

  // The same in all lanes, and known to be.
  const int warpgroup = __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kWarpgroup, 0);
  if (warpgroup == 0) {
    if constexpr (CONSUMERS > 1) give_registers<kProducerRegisters>();
    if (threadIdx.x == 0 && a.copied_bytes > 0) {
      copy_filters(a, work.channels, kTaps * static_cast<int>(a.group_words),
                   work.shared + work.layout.copies, work.shared + Layout::kCopied);
    }
    __syncwarp();
    produce(work);
  } else {
    if constexpr (CONSUMERS > 1) take_registers<kConsumerRegisters>();
    consume(work, warpgroup - 1);
  }
}
