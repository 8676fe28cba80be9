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
#include "conv_wgmma_rows_patch.cuh"
#include "overlap.cuh"

// Where this lane's words of a load lie, from the first tap on, in bytes.
struct LaneDepth {
  static constexpr int kWords = WORDS == 1 ? 1 : kSpanChunks;  // of a load: a word a chunk
  static constexpr int kLoads = kChunks / kWords;              // of a row

  int offsets[kLoads];

  static __device__ LaneDepth of(const WgmmaArguments& a) {
    LaneDepth depth;
    const int tap_rows = static_cast<int>(a.dilation_rows * a.pitch_bytes);
    const int tap_columns = static_cast<int>(a.dilation_columns) * kPixelBytes;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const Depth at = Depth::at(i * kWords, threadIdx.x % 4);
      // Without bits in the filters, any words will do.
      const int tap = at.tap < kTaps ? at.tap : 0;
      depth.offsets[i] =
          tap / KERNEL_COLUMNS * tap_rows + tap % KERNEL_COLUMNS * tap_columns + at.word * 4;
      keep(depth.offsets[i]);
    }
    return depth;
  }
};

struct Fragments {
  u32 registers[kSteps][4];

  // What is loaded together comes in neighbouring registers, not where products want it. To move it
  // there is cheaper than to load words one by one: those of a warp fall into few of the banks.
  __device__ void load(const u32 (&rows)[2], const LaneDepth& depth) {
#pragma unroll
    for (int i = 0; i < 2 * LaneDepth::kLoads; ++i) {
      const int half = i % 2;
      u32 words[LaneDepth::kWords];
      load_words<LaneDepth::kWords>(words, rows[half] + depth.offsets[i / 2]);
#pragma unroll
      for (int j = 0; j < LaneDepth::kWords; ++j) {
        const int chunk = i / 2 * LaneDepth::kWords + j;
        registers[chunk / 2][chunk % 2 * 2 + half] = words[j];
      }
    }
  }

  // The sums are valid after wait_products.
  __device__ void multiply(FilterTile<kColumns> filters, Sums& sums) const {
    begin_products();
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      multiply_async(sums, registers[k], filters, k > 0);
      filters.low += FilterTile<kColumns>::kStep;
    }
    commit_products();
  }
};

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

// This lane's two pixels of a tile: where their first taps lie in the stack of padded images, and
// their border classes.
struct PixelPlaces {
  u32 offset[2];
  u32 border[2];
};

struct PlaceFinder {
  u32 spots;
  u32 plane;
  u32 image_bytes;  // of a padded image
  i64 by_plane;

  static __device__ PlaceFinder of(const Work& work) {
    const WgmmaArguments& a = work.a;
    PlaceFinder finder = {work.shared + work.layout.spots,
                          static_cast<u32>(a.out_height) * static_cast<u32>(a.out_width),
                          static_cast<u32>(a.image_rows) * static_cast<u32>(a.pitch_bytes),
                          a.by_plane};
    hold(finder.spots);
    hold(finder.plane);
    hold(finder.image_bytes);
    return finder;
  }

  __device__ PixelPlaces find(int pixel) const {
    PixelPlaces places;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const u32 image = divide_by(pixel + 8 * half, by_plane);
      const u32 spot = load_shared(spots + 4 * (pixel + 8 * half - image * plane));
      places.border[half] = Spot::border_of(spot);
      places.offset[half] = Spot::offset_of(spot) + image * image_bytes;
    }
    return places;
  }
};

// Reads the fragments of a patch as soon as it is there, and returns it to the producer.
__device__ inline void take_patch(const Work& work, const Stage& stage, const PixelPlaces& pixels,
                                  const LaneDepth& depth, bool leader, Fragments& fragments) {
  const u32 full = work.shared + Layout::kFull + 8 * stage.index;
  wait_barrier(full, stage.phase);
  const u32 origin = load_shared(work.shared + Layout::kOrigins + 4 * stage.index);
  const u32 rows[2] = {pixels.offset[0] + origin, pixels.offset[1] + origin};
  fragments.load(rows, depth);
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

// Of floats before the launch before has ended: s1 is 2% faster. Bits are as much slower for it, as
// registers fall out otherwise; with residual sums some would spill.
constexpr bool kFindsEarly = !Channel<OUT>::kPacked && !RESIDUAL;

// So many consumers multiply at once; the others make the table meanwhile. (A residual sum leaves
// no registers for waiting between products and stores.)
constexpr int kMultiply = CONSUMERS > 1 && !RESIDUAL ? 1 : 0;

__device__ void consume(Work work, int consumer) {
  const WgmmaArguments& a = work.a;
  work.channels.pin();
  prepare_places(work);
  const int first_row =
      consumer * kProductM + threadIdx.x % kWarpgroup / 32 * 16 + threadIdx.x % 32 / 4;
  PlaceFinder finder;
  LaneDepth depth;
  if constexpr (kFindsEarly) {
    finder = PlaceFinder::of(work);
    depth = LaneDepth::of(a);
  }
  wait_for_launch_before();
  prepare<OUT>(work);
  if (consumer >= kMultiply) write_table<OUT, kMultiply>(work);
  if constexpr (kMultiply == 0) sync_consumers();
  if constexpr (!kFindsEarly) {
    finder = PlaceFinder::of(work);
    depth = LaneDepth::of(a);
  }
  PixelPlaces places = finder.find(work.first_tile * kTileM + first_row);
  Epilogue epilogue(work, first_row);
  const FilterTile<kColumns> filters = FilterTile<kColumns>::at(work.shared + work.layout.filters);

  u32 leader = threadIdx.x % 32 == 0;
  hold(leader);
  Stage stage;
  Fragments fragments;
  const auto take = [&] {
    take_patch(work, stage, places, depth, leader != 0, fragments);
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
    const u32 border[2] = {places.border[0], places.border[1]};
    tile += work.walkers;
    more = tile < static_cast<int>(a.pixel_tiles);
    places = finder.find(tile * kTileM + first_row);
    wait_products();
    if constexpr (kRoomy) {
      if (more) take();
    }
    epilogue.store(work, border, sums);
  } while (more);
}

extern "C" __global__ void __launch_bounds__(kThreads, 1)
    conv_wgmma_rows(const __grid_constant__ KernelArguments a) {
  extern __shared__ __align__(128) u8 dynamic[];
  const Work work = Work::of(a, shared_address(dynamic));
  init_barriers<Layout>(a, work.shared, kWarpgroup, 4 * CONSUMERS,
                        kConsumerThreads - kMultiply * kWarpgroup);
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
