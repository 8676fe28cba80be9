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
// The first term comes from a table of border classes; popc(a) is counted on the fragments.
#include "conv_wgmma_patch.cuh"
#include "conv_wgmma_ring.cuh"
#include "conv_wgmma_store.cuh"
#include "conv_wgmma_weights.cuh"

// What every role knows of its block.
struct Work {
  const WgmmaArguments& a;
  Channels channels;
  Layout layout;
  int first_tile;
  int walkers;  // blocks with the same channels
  u8* dynamic;  // shared memory
  u32 shared;   // its address
};

// What the consumers wait for before their first epilogue. The producers make it as soon as there
// is something to multiply.
__device__ void prepare_tables(const Work& work) {
  build_tables<OUT>(work.a, work.channels, work.layout, work.shared, work.dynamic);
  arrive(work.shared + Layout::kTableReady);
}

__device__ void produce(const Work& work) {
  const WgmmaArguments& a = work.a;
  const int slabs = static_cast<int>(a.slabs);
  const PatchLoader loader = PatchLoader::of(a);
  const BorderAxis rows = {static_cast<int>(a.step_rows * a.skip_rows),
                           static_cast<int>(a.padding_rows),
                           static_cast<int>(a.tap_rows),
                           a.tap_rows_inverse,
                           static_cast<int>(a.reach_rows - a.height),
                           static_cast<int>(a.cut_first_rows)};
  const BorderAxis columns = {static_cast<int>(a.step_columns * a.skip_columns),
                              static_cast<int>(a.padding_columns),
                              static_cast<int>(a.tap_columns),
                              a.tap_columns_inverse,
                              static_cast<int>(a.reach_columns - a.width),
                              static_cast<int>(a.cut_first_columns)};
  TileStart start = TileStart::at(a, static_cast<i64>(work.first_tile) * kTileM);
  Stage stage;
  const int tiles = (static_cast<int>(a.pixel_tiles) - work.first_tile - 1) / work.walkers + 1;
  int before_tables = tiles * slabs < kMinStages ? tiles * slabs : kMinStages;
#pragma unroll 1
  for (int tile = 0; tile < tiles; ++tile) {
    const int patch_rows = patch_rows_of(a, start);
    const int stack_row = start.row * static_cast<int>(a.step_rows);
    const u32* image = a.x + start.image * (a.height * loader.row_words) +
                       static_cast<i64>(work.channels.group) * a.group_words;
#pragma unroll 1
    for (int slab = 0; slab < slabs; ++slab) {
      wait_barrier(work.shared + Layout::kEmpty + 8 * stage.index, stage.phase ^ 1);
      const u32 patch = stage.patch(a, work.shared + work.layout.patches);
      loader.load(a, image, stack_row, patch_rows, slab, patch);
      if (slab == 0) describe_rows(a, start, rows, columns, patch + PLANES * loader.plane_bytes);
      const u32 full = work.shared + Layout::kFull + 8 * stage.index;
      arrive_after_copies(full);
      arrive(full);  // for what was stored without a copy
      stage.advance(a);
      if (--before_tables == 0) prepare_tables(work);
    }
    start.advance(a, static_cast<i64>(work.walkers) * kTileM);
  }
}

// The fragments of a slab, and its products.
struct Fragments {
  u32 registers[kSteps][4];

  __device__ void load(u32 rows, u32 offsets) {
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      load_matrices(registers[k], rows + load_shared(offsets + 8 * k));
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
  const int first_row = consumer * kProductM + threadIdx.x % kWarpgroup / 32 * 16;
  const int slabs = static_cast<int>(a.slabs);
  const i64 pixels = a.batch * a.out_height * a.out_width;
  const u32 offsets = work.shared + Layout::kOffsets + lane / 16 * 4;

  load_filters(a, work.channels, work.shared + work.layout.filters);
  commit_copies();
  wait_copies<0>();
  publish_to_products();
  tell_producers();
  sync_threads<kFiltersForConsumers, kThreads - kWarpgroup>();

  Stage stage;
#pragma unroll 1
  for (int tile = work.first_tile; tile < static_cast<int>(a.pixel_tiles); tile += work.walkers) {
    LaneRows rows;
    rows.pixel = static_cast<i64>(tile) * kTileM + first_row + lane / 4;
    const i64 left = pixels - rows.pixel;
    rows.left = left < 9 ? static_cast<int>(left) : 9;
    rows.set[0] = rows.set[1] = 0;
    u32 row = 0;
    Sums sums;
    FilterTile<TILE_N> filters = FilterTile<TILE_N>::at(work.shared + work.layout.filters);
#pragma unroll 1
    for (int slab = 0; slab < slabs; ++slab) {
      wait_barrier(work.shared + Layout::kFull + 8 * stage.index, stage.phase);
      const u32 patch = stage.patch(a, work.shared + work.layout.patches);
      if (slab == 0) {
        const u32 words = patch + PLANES * static_cast<int>(a.plane_bytes) + first_row * 4;
        row = (load_shared(words + lane % 16 * 4) & 0xFFFFu) * kChunkBytes;
        rows.border[0] = load_shared(words + lane / 4 * 4) >> 16;
        rows.border[1] = load_shared(words + (lane / 4 + 8) * 4) >> 16;
      } else {
        wait_products();  // they read the registers that are loaded now
      }
      Fragments fragments;
      fragments.load(patch + row, offsets);
      __syncwarp();
      if (lane == 0) arrive(work.shared + Layout::kEmpty + 8 * stage.index);
      stage.advance(a);
      fragments.multiply(filters, slab == 0, sums, rows.set);
      filters.low += kSteps * FilterTile<TILE_N>::kStep;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) rows.set[half] = sum_of_lanes(rows.set[half]);
    wait_barrier(work.shared + Layout::kTableReady, 0);
    wait_products();
    store_tile<OUT>(a, work.channels, work.shared, rows, sums);
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
    conv_wgmma(const __grid_constant__ WgmmaArguments a) {
  extern __shared__ __align__(128) u8 dynamic[];
  const int channel_tiles = static_cast<int>(a.channel_tiles);
  const Work work = {a,
                     Channels::at(a, static_cast<int>(blockIdx.x) % channel_tiles),
                     Layout::of(a),
                     static_cast<int>(blockIdx.x) / channel_tiles,
                     static_cast<int>(gridDim.x) / channel_tiles,
                     dynamic,
                     shared_address(dynamic)};
  if (threadIdx.x == 0) {
    for (int i = 0; i < static_cast<int>(a.stages); ++i) {
      init_barrier(work.shared + Layout::kFull + 8 * i, 2 * kWarpgroup);
      init_barrier(work.shared + Layout::kEmpty + 8 * i, 4 * CONSUMERS);
    }
    init_barrier(work.shared + Layout::kTableReady, kWarpgroup);
  }
  write_offsets(a, work.shared + Layout::kOffsets);
  if (a.slabs == 1) clear_patches(a, work.shared + work.layout.patches);
  __syncthreads();

  // The same in all lanes, and known to be.
  const int warpgroup = __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kWarpgroup, 0);
  if (warpgroup == 0) {
    if constexpr (CONSUMERS > 1) give_registers<kProducerRegisters>();
    produce(work);
  } else {
    if constexpr (CONSUMERS > 1) take_registers<kConsumerRegisters>();
    consume(work, warpgroup - 1);
  }
}
