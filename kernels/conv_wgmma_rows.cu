// Convolution of few channels on Hopper's warpgroup-wide 1-bit matrix products (sm_90a). As in
// conv_wgmma, rows are output pixels, columns output channels, and a block loads its filters once
// and walks over tiles of pixels. With few channels a tile has few products, so that all else must
// be little: whole rows of images are copied at once, fragments are plain loads, and popc(a) comes
// from the products.
//
//   dot = sum over the taps inside of (channels - 2 popc(b)) - 2 popc(a) + 4 popc(a & b)
//
// The last warpgroup produces patches; those before it consume them.
#include "conv_wgmma_rows_tile.cuh"
// (After the tile.)
#include "conv_wgmma_copies.cuh"
#include "conv_wgmma_epilogue.cuh"
// (After the epilogue.)
#include "conv_wgmma_rows_filters.cuh"
#include "conv_wgmma_rows_fragments.cuh"
#include "conv_wgmma_rows_patch.cuh"
#include "overlap.cuh"

struct FloatEpilogue {
  int pixel;  // this lane's first of the tile
  TileEpilogue of_tile;

  __device__ FloatEpilogue(const Work& work, int first_row)
      : pixel(work.first_tile * kTileM + first_row) {}

  __device__ void begin(const Work& work) { of_tile.begin(work.a, work.channels, rows(work.a)); }

  // The block's tiles in turn.
  __device__ void store(const Work& work, const u32 (&border)[2], const Sums& sums) {
    LaneRows stored = rows(work.a);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      stored.border[half] = border[half];
      stored.set[half] = sums.values[kSetSum + 2 * half];
    }
    of_tile.store(work.a, work.channels, work.shared, stored, sums);
    pixel += static_cast<int>(work.a.step_pixels);
  }

 private:
  __device__ LaneRows rows(const WgmmaArguments& a) const {
    LaneRows of_pixel = {};
    of_pixel.first = pixel - static_cast<int>(threadIdx.x % 32 / 4);
    const int pixels = static_cast<int>(a.batch * a.out_height * a.out_width);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      of_pixel.pixel[half] = pixel + 8 * half < pixels ? pixel + 8 * half : -1;
    }
    return of_pixel;
  }
};

using Epilogue = Choose<Channel<OUT>::kPacked, BitsEpilogue, FloatEpilogue>::Type;

// Reads the fragments of a patch as soon as it is there, and returns it to the producers; the
// border classes of its pixels are returned here.
__device__ inline void take_patch(const Work& work, const Stage& stage, const LanePlaces& lanes,
                                  const LaneDepth& depth, bool leader, Fragments& fragments,
                                  u32 (&border)[2]) {
  const u32 full = work.shared + Layout::kFull + 8 * stage.index;
  wait_barrier(full, stage.phase);
  const PixelPlaces places = lanes.load(stage.patch(work.a, 0));
  fragments.load(places, depth);
  border[0] = places.border[0];
  border[1] = places.border[1];
  __syncwarp();
  if (leader) arrive(full + Layout::kEmpty - Layout::kFull);
}

// A residual sum's constants are loaded before the filters and stored behind them.
template <class Out>
__device__ inline void prepare(const Work& work) {
#if RESIDUAL
  constexpr int kShare = (TILE_N + kConsumerThreads - 1) / kConsumerThreads;
  ResidualConstants constants[kShare];
#pragma unroll
  for (int i = 0; i < kShare; ++i) {
    constants[i].load(work.a, work.channels, threadIdx.x + i * kConsumerThreads);
  }
  prepare_filters<Out>(work);
#pragma unroll
  for (int i = 0; i < kShare; ++i) {
    const int channel = threadIdx.x + i * kConsumerThreads;
    if (channel < TILE_N) constants[i].store(work.shared, channel);
  }
  sync_consumers();
#else
  prepare_filters<Out>(work);
#endif
}

// So many consumers multiply at once; the others make the table meanwhile. (A residual sum leaves
// no registers for waiting between products and stores.)
constexpr int kMultiply = CONSUMERS > 1 && !RESIDUAL ? 1 : 0;

// What needs nothing from global memory.
__device__ inline void prepare_places(const Work& work) {
  write_parts(work);
  write_ones(work);
  sync_consumers();
  write_spots(work);
  arrive(work.shared + Layout::kSpotted);  // each thread for what it has written
}

__device__ void consume(Work work, int consumer) {
  const WgmmaArguments& a = work.a;
  work.channels.pin();
  if constexpr (kSpareRegisters >= 48) pin(work.shared);  // else it is found out in every tile
  prepare_places(work);
  const int first_of_warp = consumer * kProductM + threadIdx.x % kWarpgroup / 32 * 16;
  const int first_row = first_of_warp + threadIdx.x % 32 / 4;
  wait_for_launch_before();
  prepare<OUT>(work);
  if (consumer >= kMultiply) write_table<OUT, kMultiply>(work);
  if constexpr (kMultiply == 0) sync_consumers();
  const LaneDepth depth = LaneDepth::of(a);
  Epilogue epilogue(work, first_row);
  const FilterTile<kColumns> filters = FilterTile<kColumns>::at(work.shared + work.layout.filters);
  const auto lanes = LanePlaces::of(work.shared + work.layout.patches, first_of_warp);

  u32 leader = threadIdx.x % 32 == 0;
  hold(leader);
  Stage stage;
  Fragments fragments;
  u32 border[2];  // of what `fragments` holds
  const auto take = [&] {
    take_patch(work, stage, lanes, depth, leader != 0, fragments, border);
    stage.advance(a);
  };
  if constexpr (kRoomy) take();
  int tile = work.first_tile;
  bool more;
  do {
    epilogue.begin(work);
    if constexpr (!kRoomy) take();
    Sums sums;
    fragments.multiply(filters, sums);
    if (kMultiply > 0 && tile == work.first_tile) {
      wait_barrier(work.shared + Layout::kTabled, 0);
    }
    const u32 of_tile[2] = {border[0], border[1]};
    tile += work.walkers;
    more = tile < static_cast<int>(a.pixel_tiles);
    wait_products(sums);
    if constexpr (kRoomy) {
      fragments.forget();
      if (more) take();
    }
    epilogue.store(work, of_tile, sums);
  } while (more);
}

extern "C" __global__ void __launch_bounds__(kThreads, 1)
    conv_wgmma_rows(const __grid_constant__ KernelArguments a) {
  extern __shared__ __align__(128) u8 dynamic[];
  const Work work = Work::of(a, shared_address(dynamic));
  init_barriers<Layout>(a, work.shared, kWarpgroup, 4 * CONSUMERS,
                        kConsumerThreads - kMultiply * kWarpgroup);
  if (threadIdx.x == 0) init_barrier(work.shared + Layout::kSpotted, kConsumerThreads);
  __syncthreads();

  // The same in all lanes, and known to be.
  const int warp = __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / 32, 0);
  if (warp >= 4 * CONSUMERS) {
    if constexpr (kHandsOver) give_registers<kProducerRegisters>();
    wait_for_launch_before();
    if (threadIdx.x == kConsumerThreads) {
      copy_filters(a, work.channels, kTaps * WORDS, work.shared + work.layout.copies,
                   work.shared + Layout::kCopied);
    }
    __syncwarp();
    fill_sides(a, work.shared + work.layout.patches, warp - 4 * CONSUMERS);
    produce(work, warp - 4 * CONSUMERS);
  } else {
    if constexpr (kHandsOver) take_registers<kConsumerRegisters>();
    consume(work, warp / 4);
  }
}
