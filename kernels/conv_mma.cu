// Convolution on the 1-bit tensor cores (sm_80 and newer) as an implicit matrix product: rows are
// output pixels, columns output channels, and the depth runs over taps and words of channels.
//
// A block keeps its channels and walks over tiles of pixels. Its filters stay in shared memory if
// they fit, else they come with each stage. Patches of input pixels come through a ring of stages;
// the next tile's are under way while this one is stored. popc(a) is counted once per input pixel,
// not per tap.
#include "conv_mma_patch.cuh"
#include "conv_mma_product.cuh"
#include "conv_mma_store.cuh"

constexpr int kStagesAhead = 2;
constexpr int kBlocks = WARP_M * WARP_N >= 64 * 64 ? 256 / kThreads : 4;

// The stages in the order of the product, over all tiles of the block.
struct Walk {
  int tile;
  int stage = 0;
  int slot = 0;

  __device__ void advance(const MmaArguments& a) {
    if (++slot == static_cast<int>(a.slots)) slot = 0;
    if (++stage == static_cast<int>(a.stages)) {
      stage = 0;
      tile += static_cast<int>(a.walkers);
    }
  }

  __device__ u8* address(const MmaArguments& a, u8* shared) const {
    const int bytes = static_cast<int>(a.patch_bytes + (a.resident ? 0 : a.filter_bytes));
    return shared + static_cast<int>(a.ring_at) + slot * bytes;
  }

  __device__ u8* filters(const MmaArguments& a, u8* shared) const {
    return a.resident ? shared + stage * static_cast<int>(a.filter_bytes)
                      : address(a, shared) + static_cast<int>(a.patch_bytes);
  }

  // Starts this stage's copies, as a group of their own (empty past the last tile).
  __device__ void load(const MmaArguments& a, const Block& block, u8* shared) {
    if (tile < static_cast<int>(a.pixel_tiles)) {
      load_patch(a, Tile::at(a, tile), block.group, stage, shared_address(address(a, shared)));
      if (!a.resident) {
        load_filters(a, block, at<Chunk>(shared, a.chunks_at), stage, filters(a, shared));
      }
      advance(a);
    }
    commit_copies();
  }
};

template <class Out>
__device__ void store_tile(const MmaArguments& a, const Block& block, const Tile& tile,
                           const Warp& warp, u8* shared, const Spot* spots, const Sums& sums) {
  const int index = warp.m * WARPS_N + warp.n;
  Row* rows = at<Row>(shared, a.rows_at) + index * WARP_M;
  describe_rows(a, warp, spots, at<int>(shared, a.taps_at), at<int>(shared, a.set_bits_at), rows);
  const auto* channels = at<Channel<Out>>(shared, a.channels_at);
  const int* table = at<int>(shared, a.table_at);
  if constexpr (Channel<Out>::kPacked) {
    store_bits(a, block, tile, warp, rows, channels, table, sums);
  } else {
    constexpr i64 kPartials = (WARPS_K - 1) * WARPS_M * WARPS_N * sizeof(Partials);
    store_floats<Out>(a, block, tile, warp, rows, channels, table, sums,
                      at<Crossing<Out>>(shared, a.scratch_at + kPartials) + index);
  }
}

// What a block needs for all of its tiles.
__device__ inline void set_up(const MmaArguments& a, const Block& block, u8* shared) {
  Chunk* chunks = at<Chunk>(shared, a.chunks_at);
  Channel<OUT>* channels = at<Channel<OUT>>(shared, a.channels_at);
  describe_chunks(a, chunks);
  describe_taps(a, at<int>(shared, a.taps_at));
#pragma unroll 1
  for (int n = static_cast<int>(threadIdx.x); n < block.channels; n += kThreads) {
    channels[n] = Channel<OUT>::load(a, block.first_channel + n);
  }
  __syncthreads();
  if (!a.resident) return;
#pragma unroll 1
  for (int stage = 0; stage < static_cast<int>(a.stages); ++stage) {
    load_filters(a, block, chunks, stage, shared + stage * static_cast<int>(a.filter_bytes));
  }
}

// One loop over the stages of all tiles, with the code of each part there once: it comes from
// memory when it first runs, at a cost of several cycles an instruction.
extern "C" __global__ void __launch_bounds__(kThreads, kBlocks)
    conv_mma(const __grid_constant__ MmaArguments a) {
  extern __shared__ __align__(128) u8 dynamic[];
  const int channel_tiles = static_cast<int>(a.channel_tiles);
  const Block block = Block::at(a, static_cast<int>(blockIdx.x) % channel_tiles);
  const Warp warp = Warp::of_thread();
  set_up(a, block, dynamic);

  Walk now = {static_cast<int>(blockIdx.x) / channel_tiles};
  Walk ahead = now;
  int unstarted = kStagesAhead;  // stages to be on their way before the first product
  Spot* spots = at<Spot>(dynamic, a.spots_at);
  Spot* next_spots = spots + kTileM;  // other warps may still store the tile before
  Operands operands;
  operands.chunk = Operands::chunk_lane(shared_address(at<Chunk>(dynamic, a.chunks_at)));
  operands.filters = Operands::filter_lane(warp);
  Tile tile = {};
  Sums sums = {};
#pragma unroll 1
  while (now.tile < static_cast<int>(a.pixel_tiles)) {
    const bool starts = now.stage == 0;
    if (unstarted == 0) {
      if (starts) {
        Spot* used = spots;
        spots = next_spots;
        next_spots = used;
        tile = Tile::at(a, now.tile);
        describe_pixels(a, tile, spots);
      }
      wait_copies<kStagesAhead - 1>();
      __syncthreads();  // the stage has arrived for all threads, and all have used the one before
    }
    ahead.load(a, block, dynamic);
    if (unstarted > 0) {
      if (--unstarted == 0) {
        build_table(a, block, at<Channel<OUT>>(dynamic, a.channels_at),
                    at<int>(dynamic, a.scratch_at), at<int>(dynamic, a.table_at));
      }
      continue;
    }

    const u8* patch = now.address(a, dynamic);
    const u32 filters = shared_address(now.filters(a, dynamic));
    count_set_bits(a, tile, now.stage, patch, at<int>(dynamic, a.set_bits_at));
    if (starts) {
      operands.enter(spots, warp);
      clear(sums);
    }
    multiply_stage(sums, operands, warp, shared_address(patch), filters, step_count(a));
    now.advance(a);
    if (now.stage != 0) continue;

    if constexpr (WARPS_K > 1) hand_over(sums, warp, at<Partials>(dynamic, a.scratch_at));
    __syncthreads();  // the set bits are counted
    if (warp.k == 0) {
      if constexpr (WARPS_K > 1) take_over(sums, warp, at<Partials>(dynamic, a.scratch_at));
      store_tile<OUT>(a, block, tile, warp, dynamic, spots, sums);
    }
  }
}
