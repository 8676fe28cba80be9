// Convolution on Hopper's warpgroup-wide 1-bit matrix products (sm_90a): rows are output pixels,
// columns output channels, and the depth runs over channels and taps.
//
// A block loads its filters into shared memory once and walks over tiles of output pixels. One
// warpgroup, the producers, copies patches of the image and counts their bits; the consumers share
// a tile, 64 pixels each: they multiply, where the pixels of a tap lie in the patch (LINEAR) or
// after gathering them into registers (so that strides, dilations and small images waste nothing).
//
//   dot = sum over the taps inside of (group_channels - 2 popc(b)) - 2 popc(a) + 4 popc(a & b)
//
// The first term comes from a table of border classes; popc(a) from the counted bits of pixels.
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

// Patches whose copies are under way: they are handed over in order, with their bits counted.
struct Pending {
  static constexpr int kMost = 3;

  int rows[kMost];  // of the patches, the latest first
  int count = 0;
  Stage oldest;

  __device__ void add(int patch_rows) {
#pragma unroll
    for (int i = kMost - 1; i > 0; --i) rows[i] = rows[i - 1];
    rows[0] = patch_rows;
    ++count;
  }

  __device__ void hand_over(const Work& work, const PatchLoader& loader) {
    if (count == 3) {
      wait_copies<2>();
    } else if (count == 2) {
      wait_copies<1>();
    } else {
      wait_copies<0>();
    }
    loader.count_bits(count == 3   ? rows[2]
                      : count == 2 ? rows[1]
                                   : rows[0],
                      oldest.patch(work.a, work.shared + work.layout.patches));
    if (LINEAR) publish_to_products();
    arrive(work.shared + Layout::kFull + 8 * oldest.index);
    oldest.advance(work.a);
    --count;
  }
};

__device__ void produce(const Work& work) {
  const WgmmaArguments& a = work.a;
  const int slabs = static_cast<int>(a.slabs);
  const int stages = static_cast<int>(a.stages);
  const int most_pending = stages - 1 < Pending::kMost ? stages - 1 : Pending::kMost;
  const PatchLoader loader = PatchLoader::of(a);
  TileStart start = TileStart::at(a, static_cast<i64>(work.first_tile) * kTileM);
  Stage stage;
  Pending pending;
  const int tiles = (static_cast<int>(a.pixel_tiles) - work.first_tile - 1) / work.walkers + 1;
  int ahead = tiles * slabs < stages ? tiles * slabs : stages;
#pragma unroll 1
  for (int tile = 0; tile < tiles; ++tile) {
    const int patch_rows = patch_rows_of(a, start);
    const u32* image = a.x + start.image * (a.height * loader.row_words) +
                       static_cast<i64>(work.channels.group) * a.group_words;
#pragma unroll 1
    for (int slab = 0; slab < slabs; ++slab) {
      if (pending.count == most_pending) pending.hand_over(work, loader);
      wait_barrier(work.shared + Layout::kEmpty + 8 * stage.index, stage.phase ^ 1);
      loader.load(a, image, start.patch_row(a), patch_rows, slab,
                  stage.patch(a, work.shared + work.layout.patches));
      commit_copies();
      pending.add(patch_rows);
      stage.advance(a);
      --ahead;
      const bool last = tile == tiles - 1 && slab == slabs - 1;
      while (pending.count > 0 && (ahead == 0 || last)) pending.hand_over(work, loader);
      if (ahead == 0) prepare_tables(work);
    }
    start.advance(a);
  }
}

// ---- consumers ----

// The products of a slab on fragments in registers.
struct Gathered {
  u32 fragments[kSteps][4];

  __device__ void load(u32 rows, u32 offsets) {
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      load_matrices(fragments[k], rows + load_shared(offsets + 8 * k));
    }
  }

  __device__ void multiply(FilterTile<TILE_N> filters, bool first, Sums& sums) const {
    begin_products();
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      multiply_async(sums, fragments[k], filters, k > 0 || !first);
      filters.low += FilterTile<TILE_N>::kStep;
    }
    commit_products();
  }
};

// The products of a slab where it lies in shared memory. Consumers take turns: one alone keeps the
// tensor cores busy, and the others' epilogues run meanwhile.
struct Turns {
  u32 mine;
  u32 next;
  u32 phase;

  static __device__ Turns of(u32 shared, int consumer) {
    return {shared + Layout::kTurns + 8 * consumer,
            shared + Layout::kTurns + 8 * ((consumer + 1) % CONSUMERS), consumer == 0 ? 1u : 0u};
  }

  __device__ void wait() {
    if constexpr (CONSUMERS > 1) wait_barrier(mine, phase);
    phase ^= 1;
  }

  __device__ void pass() const {
    if constexpr (CONSUMERS > 1) {
      if (threadIdx.x % 32 == 0) arrive(next);
    }
  }

  __device__ void multiply(const WgmmaArguments& a, u32 first_row, FilterTile<TILE_N> filters,
                           bool first, Sums& sums) {
    // From lane 0, so that the compiler knows it to be the same in all: the operands' addresses
    // then stay in uniform registers, where the products read them.
    const u32 low = __shfl_sync(kAllLanes, first_row >> 4, 0);
    wait();
    begin_products();
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      if (k == kSteps - 1) pass();  // the last product covers the way to the next consumer
      multiply_async(sums, low + linear_step(a, k), filters, k > 0 || !first);
      filters.low += FilterTile<TILE_N>::kStep;
    }
    commit_products();
  }
};

// Set bits under all taps of a row. (The taps of a kernel row are neighbours in memory: no branch,
// no multiplication.)
__device__ inline int bits_under_taps(const WgmmaArguments& a, u32 counts) {
  const int down = static_cast<int>(a.tap_rows * a.patch_columns) * 4;
  const int right = static_cast<int>(a.tap_columns) * 4;
  int set = 0;
#pragma unroll
  for (int row = 0; row < KERNEL_ROWS; ++row) {
#pragma unroll
    for (int column = 0; column < KERNEL_COLUMNS; ++column) {
      set += load_shared(counts + row * down + column * right);
    }
  }
  return set;
}

__device__ void consume(const Work& work, int consumer) {
  const WgmmaArguments& a = work.a;
  const int lane = threadIdx.x % 32;
  const int first_row = consumer * kProductM + threadIdx.x % kWarpgroup / 32 * 16;
  const int slabs = static_cast<int>(a.slabs);
  const u32 offsets = work.shared + Layout::kOffsets + lane / 16 * 4;
  const u32 counts = PLANES * static_cast<int>(a.plane_bytes);

  load_filters(a, work.channels, work.shared + work.layout.filters);
  commit_copies();
  wait_copies<0>();
  publish_to_products();
  tell_producers();
  sync_threads<kFiltersForConsumers, kThreads - kWarpgroup>();

  TileStart start = TileStart::at(a, static_cast<i64>(work.first_tile) * kTileM);
  Turns turns = Turns::of(work.shared, consumer);
  Stage stage;
#pragma unroll 1
  for (int tile = work.first_tile; tile < static_cast<int>(a.pixel_tiles); tile += work.walkers) {
    // A lane knows the row whose address it gives to load_matrices; the epilogue asks others.
    const TileRow row = TileRow::at(a, start, first_row + lane % 16);
    int set = 0;
    Sums sums;
    FilterTile<TILE_N> filters = FilterTile<TILE_N>::at(work.shared + work.layout.filters);
#pragma unroll 1
    for (int slab = 0; slab < slabs; ++slab) {
      wait_barrier(work.shared + Layout::kFull + 8 * stage.index, stage.phase);
      const u32 patch = stage.patch(a, work.shared + work.layout.patches);
      if constexpr (LINEAR) {
        set += bits_under_taps(a, patch + counts + 4 * row.entry);
        const int entry = start.column + consumer * kProductM;
        turns.multiply(a, patch + entry * kChunkBytes, filters, slab == 0, sums);
        wait_products();
      } else {
        if (slab > 0) wait_products();  // they read the registers that are loaded now
        Gathered gathered;
        gathered.load(patch + row.entry * kChunkBytes, offsets);
        set += bits_under_taps(a, patch + counts + 4 * row.entry);
        gathered.multiply(filters, slab == 0, sums);
      }
      __syncwarp();
      if (lane == 0) arrive(work.shared + Layout::kEmpty + 8 * stage.index);
      stage.advance(a);
      filters.low += kSteps * FilterTile<TILE_N>::kStep;
    }
    LaneRows rows;
    rows.first_pixel = start.image * (a.out_height * a.out_width);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int from = lane / 4 + 8 * half;
      rows.output[half] = __shfl_sync(kAllLanes, row.output, from);
      rows.border[half] = __shfl_sync(kAllLanes, row.border, from);
      rows.set[half] = __shfl_sync(kAllLanes, set, from);
    }
    wait_barrier(work.shared + Layout::kTableReady, 0);
    if (!LINEAR) wait_products();
    store_tile<OUT>(a, work.channels, work.shared, rows, sums);
    start.advance(a);
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
      init_barrier(work.shared + Layout::kFull + 8 * i, kWarpgroup);
      init_barrier(work.shared + Layout::kEmpty + 8 * i, 4 * CONSUMERS);
    }
    init_barrier(work.shared + Layout::kTableReady, kWarpgroup);
    for (int i = 0; i < CONSUMERS; ++i) init_barrier(work.shared + Layout::kTurns + 8 * i, 4);
  }
  if (!LINEAR) write_offsets(a, work.shared + Layout::kOffsets);
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
