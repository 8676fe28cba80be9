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
#include "conv_wgmma_store.cuh"
#include "conv_wgmma_weights.cuh"

// A place in the ring of patches, and in its barriers' phases.
struct Stage {
  int index = 0;
  u32 phase = 0;

  __device__ void advance(const WgmmaArguments& a) {
    if (++index == static_cast<int>(a.stages)) {
      index = 0;
      phase ^= 1;
    }
  }

  __device__ u32 patch(const WgmmaArguments& a, u32 patches) const {
    return patches + index * static_cast<int>(a.stage_bytes);
  }
};

// What every role knows of its block.
struct Work {
  const WgmmaArguments& a;
  Channels channels;
  Layout layout;
  int first_tile;
  int walkers;  // blocks with the same channels
  u32 shared;   // address
};

// What the consumers wait for before their first epilogue. The filters have arrived for them by
// the time that the producers have filled all patches.
__device__ void prepare_tables(const Work& work) {
  build_tables<OUT>(work.a, work.channels, work.layout, work.shared);
  arrive(work.shared + Layout::kTableReady);
}

__device__ void produce(const Work& work) {
  const WgmmaArguments& a = work.a;
  const int slabs = static_cast<int>(a.slabs);
  const PatchLoader loader = PatchLoader::of(a);
  const BorderAxis rows = {static_cast<int>(a.step_rows * a.skip_rows),
                           static_cast<int>(a.padding_rows),
                           static_cast<int>(a.tap_rows),
                           static_cast<u32>(a.tap_rows_inverse),
                           static_cast<int>(a.reach_rows - a.height),
                           static_cast<int>(a.cut_first_rows)};
  const BorderAxis columns = {static_cast<int>(a.step_columns * a.skip_columns),
                              static_cast<int>(a.padding_columns),
                              static_cast<int>(a.tap_columns),
                              static_cast<u32>(a.tap_columns_inverse),
                              static_cast<int>(a.reach_columns - a.width),
                              static_cast<int>(a.cut_first_columns)};
  TileStart start = TileStart::at(a, static_cast<i64>(work.first_tile) * kTileM);
  Stage stage;
  const int tiles = (static_cast<int>(a.pixel_tiles) - work.first_tile - 1) / work.walkers + 1;
  int ahead =
      tiles * slabs < static_cast<int>(a.stages) ? tiles * slabs : static_cast<int>(a.stages);
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
      if (--ahead == 0) prepare_tables(work);
    }
    start.advance(a, static_cast<i64>(work.walkers) * kTileM);
  }
}

// The fragments of a slab, and the set bits of this lane's share of them.
struct Fragments {
  u32 registers[kSteps][4];

  __device__ void load(u32 rows, u32 offsets) {
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      load_matrices(registers[k], rows + load_shared(offsets + 8 * k));
    }
  }

  __device__ void count(int k, int (&set)[2]) const {
    const bool both = !kHalfStep || k < kSteps - 1;
    set[0] += count_bits(registers[k][0]) + (both ? count_bits(registers[k][2]) : 0);
    set[1] += count_bits(registers[k][1]) + (both ? count_bits(registers[k][3]) : 0);
  }

 private:
  // In the place where it is written: between two products, which take long to issue.
  static __device__ int count_bits(u32 word) {
    int set;
    asm volatile("popc.b32 %0, %1;" : "=r"(set) : "r"(word));
    return set;
  }
};

// The products of a slab, issued; the sums are valid after wait_products.
__device__ inline void multiply_slab(const Fragments& fragments, FilterTile<TILE_N> filters,
                                     bool first, Sums& sums, int (&set)[2], u32 next) {
  begin_products();
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
    multiply_async(sums, fragments.registers[k], filters, k > 0 || !first);
    filters.first += FilterTile<TILE_N>::kStep;
    fragments.count(k, set);
    if (STAGGER == 2 && k == kSteps / 2 && next != 0 && threadIdx.x % 32 == 0) arrive(next);
  }
  commit_products();
  if (STAGGER == 1 && next != 0 && threadIdx.x % 32 == 0) arrive(next);
}

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
  const u32 row_words = PLANES * static_cast<int>(a.plane_bytes) + first_row * 4;

  load_filters(a, work.channels, work.shared + work.layout.filters);
  commit_copies();
  wait_copies<0>();
  publish_to_products();
  sync_threads<1, kThreads>();

  Stage stage;
#pragma unroll 1
  for (int tile = work.first_tile; tile < static_cast<int>(a.pixel_tiles); tile += work.walkers) {
    const i64 pixel = static_cast<i64>(tile) * kTileM + first_row + lane / 4;
    const i64 left = pixels - pixel;
    LaneRows rows;
    rows.pixel = pixel;
    rows.left = left < 9 ? static_cast<int>(left) : 9;
    // Whether the warpgroup has any pixel: where not, it only keeps the others company.
    const bool exists = static_cast<i64>(tile) * kTileM + consumer * kProductM < pixels;
    u32 entry = 0;
    Sums sums;
    FilterTile<TILE_N> filters = FilterTile<TILE_N>::at(work.shared + work.layout.filters);
#pragma unroll 1
    for (int slab = 0; slab < slabs; ++slab) {
      wait_barrier(work.shared + Layout::kFull + 8 * stage.index, stage.phase);
      const u32 patch = stage.patch(a, work.shared + work.layout.patches);
      if (slab == 0) {
        entry = (load_shared(patch + row_words + lane % 16 * 4) & 0xFFFFu) * kChunkBytes;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          rows.border[half] = load_shared(patch + row_words + (lane / 4 + 8 * half) * 4) >> 16;
          rows.set[half] = 0;
        }
      } else {
        wait_products();  // they read the registers that are loaded now
      }
      Fragments fragments;
      fragments.load(patch + entry, offsets);
      __syncwarp();
      if (lane == 0) arrive(work.shared + Layout::kEmpty + 8 * stage.index);
      stage.advance(a);
      const bool begins = STAGGER > 0 && tile == work.first_tile && slab == 0;
      const u32 turn = work.shared + Layout::kTurns + 8 * consumer;
      if (begins && consumer > 0) wait_barrier(turn, 0);
      if (exists)
        multiply_slab(fragments, filters, slab == 0, sums, rows.set,
                      begins && consumer + 1 < CONSUMERS ? turn + 8 : 0);
      else if (begins && consumer + 1 < CONSUMERS && lane == 0)
        arrive(turn + 8);
      filters.first += kSteps * FilterTile<TILE_N>::kStep;
    }
    if (!exists) continue;
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
    asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" : : "r"(to), "r"(0) : "memory");
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
                     shared_address(dynamic)};
  if (threadIdx.x == 0) {
    for (int i = 0; i < static_cast<int>(a.stages); ++i) {
      init_barrier(work.shared + Layout::kFull + 8 * i, 2 * kWarpgroup);
      init_barrier(work.shared + Layout::kEmpty + 8 * i, 4 * CONSUMERS);
    }
    init_barrier(work.shared + Layout::kTableReady, kWarpgroup);
    for (int i = 0; i < CONSUMERS; ++i) init_barrier(work.shared + Layout::kTurns + 8 * i, 4);
  }
  write_offsets(a, work.shared + Layout::kOffsets);
  if (a.slabs == 1) clear_patches(a, work.shared + work.layout.patches);
  __syncthreads();

  const int warpgroup = static_cast<int>(threadIdx.x) / kWarpgroup;
  if (warpgroup == 0) {
    if constexpr (CONSUMERS > 1) give_registers<kProducerRegisters>();
    produce(work);
  } else {
    if constexpr (CONSUMERS > 1) take_registers<kConsumerRegisters>();
    consume(work, warpgroup - 1);
  }
}
