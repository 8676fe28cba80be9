// Convolution on the 1-bit tensor cores (sm_80 and newer) as an implicit matrix product: rows are
// output pixels, columns output channels, and the depth runs over taps and words of channels.
//
// A block keeps its channels and walks over tiles of pixels. Its filters stay in shared memory if
// they fit, else they come with each stage. Patches of input pixels come a stage ahead: the next
// tile's first is under way while this one is stored. popc(a) is counted once per input pixel, not
// per tap.
#include "conv_mma_patch.cuh"
#include "conv_mma_product.cuh"
#include "conv_mma_store.cuh"

constexpr int kBlocks = kWarpsOfScheduler * 128 / kThreads;

// What is kept of a tile from its first copies to its last store: of this tile and the next, in
// turn. The one after that is begun when all warps have stored this one.
constexpr int kTilesKept = 2;

// The stages in the order of the product, over all tiles of the block.
struct Walk {
  int tile;
  int stage = 0;
  int slot = 0;
  int turn = 0;  // of the tile, among kTilesKept

  __device__ void advance(const MmaArguments& a) {
    if (++slot == static_cast<int>(a.slots)) slot = 0;
    if (++stage == static_cast<int>(a.stages)) {
      stage = 0;
      tile += static_cast<int>(a.walkers);
      turn ^= 1;
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
};

__device__ inline Spot* kept_spots(const MmaArguments& a, u8* shared, int turn) {
  return at<Spot>(shared, a.spots_at) + turn * kTileM;
}

// Starts the copies of the next stage, as a group of their own (empty past the last tile).
// `entries` are those of its patch, found with the tile's first stage.
__device__ inline void load_stage(const MmaArguments& a, const Block& block, Walk& ahead,
                                  int& entries, u8* shared) {
  if (ahead.tile < static_cast<int>(a.pixel_tiles)) {
    u32* sources = at<u32>(shared, a.sources_at);
    if (ahead.stage == 0) {
      const Tile tile = Tile::at(a, ahead.tile);
      entries = tile.entries;
      find_sources(a, tile, sources);
      describe_pixels(a, tile, kept_spots(a, shared, ahead.turn));
    }
    load_patch(a, entries, sources, block.group, ahead.stage,
               shared_address(ahead.address(a, shared)));
    if (!a.resident) {
      load_filters(a, block, at<Chunk>(shared, a.chunks_at), ahead.stage, ahead.filters(a, shared));
    }
    ahead.advance(a);
  }
  commit_copies();
}

template <class Out>
__device__ void store_tile(const MmaArguments& a, const Block& block, int first_pixel,
                           const Warp& warp, const Finish<Out>& finish, u8* shared,
                           const Spot* spots, const int* set_bits, const Sums& sums) {
  const int index = warp.m * WARPS_N + warp.n;
  Row* rows = at<Row>(shared, a.rows_at) + index * WARP_M;
  describe_rows(a, warp, spots, at<int>(shared, a.taps_at), set_bits, rows);
  const int* table = at<int>(shared, a.table_at);
  if constexpr (Channel<Out>::kPacked) {
    store_bits(a, block, first_pixel, warp, rows, finish, table, sums);
  } else {
    constexpr i64 kPartials = (WARPS_K - 1) * WARPS_M * WARPS_N * sizeof(Partials);
    store_floats<Out>(a, block, first_pixel, warp, rows, finish, table, sums,
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
  bool started = false;  // whether a stage is under way
  int entries = 0;       // of the patch of the last stage that was started
  const auto finish = Finish<OUT>::of(block, warp, at<Channel<OUT>>(dynamic, a.channels_at));
  Operands operands;
  operands.chunk = Operands::chunk_lane(warp, shared_address(at<Chunk>(dynamic, a.chunks_at)));
  operands.filters = Operands::filter_lane(warp);
  Sums sums = {};
#pragma unroll 1
  while (now.tile < static_cast<int>(a.pixel_tiles)) {
    const bool starts = now.stage == 0;
    const Spot* spots = kept_spots(a, dynamic, now.turn);
    int* set_bits = at<int>(dynamic, a.set_bits_at) +
                    now.turn * static_cast<int>(a.segment_entries * a.segments);
    const u8* patch = now.address(a, dynamic);
    if (started) {
      wait_copies<0>();
      count_set_bits(a, entries, now.stage, patch, set_bits);
      __syncthreads();  // the stage has arrived for all threads, and all have used the one before
    }
    load_stage(a, block, ahead, entries, dynamic);
    if (!started) {
      build_table(a, block, at<Channel<OUT>>(dynamic, a.channels_at),
                  at<int>(dynamic, a.scratch_at), at<int>(dynamic, a.table_at));
      started = true;
      continue;
    }

    if (starts) {
      operands.enter(spots, warp);
      clear(sums);
    }
    multiply_stage(sums, operands, warp, shared_address(patch),
                   shared_address(now.filters(a, dynamic)), step_count(a));
    const int first_pixel = now.tile * kTileM;
    now.advance(a);
    if (now.stage != 0) continue;

    if constexpr (WARPS_K > 1) {
      hand_over(sums, warp, at<Partials>(dynamic, a.scratch_at));
      __syncthreads();
      if (warp.k == 0) take_over(sums, warp, at<Partials>(dynamic, a.scratch_at));
    }
    if (warp.k == 0) {
      store_tile<OUT>(a, block, first_pixel, warp, finish, dynamic, spots, set_bits, sums);
    }
  }
}
