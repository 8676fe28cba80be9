// Convolution of few channels on Hopper's warpgroup-wide 1-bit matrix products (sm_90a). As in
// conv_wgmma, rows are output pixels, columns output channels, and a block loads its filters once
// and walks over tiles of pixels. With few channels a tile has few products, so that all else must
// be little: whole rows of images are copied at once, fragments are plain loads, and popc(a) comes
// from the products.
//
//   dot = sum over the taps inside of (channels - 2 popc(b)) - 2 popc(a) + 4 popc(a & b)
//
// One warp produces patches; the warpgroups before it consume them.
#include "conv_wgmma_rows_filters.cuh"
#include "conv_wgmma_rows_patch.cuh"
// (After the tile.)
#include "conv_wgmma_store.cuh"

// Where this lane's words of a step's taps lie, from the first tap on, in bytes.
struct LaneDepth {
  static constexpr int kLoads = WORDS == 1 ? 2 : 1;  // of a row, in a step

  int offsets[kSteps * kLoads];

  static __device__ LaneDepth of(const WgmmaArguments& a) {
    LaneDepth depth;
    const int tap_rows = static_cast<int>(a.dilation_rows * a.pitch_bytes);
    const int tap_columns = static_cast<int>(a.dilation_columns) * kPixelBytes;
#pragma unroll
    for (int i = 0; i < kSteps * kLoads; ++i) {
      const Depth at = Depth::at(i * (2 / kLoads), threadIdx.x % 4);
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

  __device__ void load(const u32 (&rows)[2], const LaneDepth& depth) {
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        u32& first = registers[k][half];
        u32& second = registers[k][2 + half];
        if constexpr (WORDS == 1) {
          first = load_shared(rows[half] + depth.offsets[2 * k]);
          second = load_shared(rows[half] + depth.offsets[2 * k + 1]);
        } else {
          load_pair(first, second, rows[half] + depth.offsets[k]);
        }
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

__device__ void consume(const Work& work, int consumer) {
  const WgmmaArguments& a = work.a;
  const int lane = threadIdx.x % 32;
  const int first_row = consumer * kProductM + threadIdx.x % kWarpgroup / 32 * 16 + lane / 4;
  const int plane = static_cast<int>(a.out_height) * static_cast<int>(a.out_width);
  const int pixels = static_cast<int>(a.batch) * plane;
  const u32 image_bytes = static_cast<u32>(a.image_rows * a.pitch_bytes);
  const u32 spots = work.shared + work.layout.spots;
  prepare<OUT>(work);
  const FilterTile<kColumns> filters = FilterTile<kColumns>::at(work.shared + work.layout.filters);
  const LaneDepth depth = LaneDepth::of(a);

  Stage stage;
#pragma unroll 1
  for (int tile = work.first_tile; tile < static_cast<int>(a.pixel_tiles); tile += work.walkers) {
    const int pixel = tile * kTileM + first_row;
    LaneRows rows;
    rows.pixel = pixel;
    rows.left = pixels - pixel;
    u32 address[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int image = divide_by(pixel + 8 * half, a.by_plane);
      const u32 spot = load_shared(spots + 4 * (pixel + 8 * half - image * plane));
      rows.border[half] = Spot::border_of(spot);
      address[half] = Spot::offset_of(spot) + image * image_bytes;
    }
    wait_barrier(work.shared + Layout::kFull + 8 * stage.index, stage.phase);
    const u32 origin = load_shared(work.shared + Layout::kOrigins + 4 * stage.index);
    address[0] += origin;
    address[1] += origin;
    Fragments fragments;
    fragments.load(address, depth);
    __syncwarp();
    if (lane == 0) arrive(work.shared + Layout::kEmpty + 8 * stage.index);
    stage.advance(a);
    Sums sums;
    fragments.multiply(filters, sums);
    wait_products();
    rows.set[0] = sums.values[kSetSum];
    rows.set[1] = sums.values[kSetSum + 2];
    store_tile<OUT>(a, work.channels, work.shared, rows, sums);
  }
}

extern "C" __global__ void __launch_bounds__(kThreads, 1)
    conv_wgmma_rows(const __grid_constant__ WgmmaArguments a) {
  extern __shared__ __align__(128) u8 dynamic[];
  const Work work = Work::of(a, shared_address(dynamic));
  if (threadIdx.x == 0) {
    for (int i = 0; i < static_cast<int>(a.stages); ++i) {
      init_barrier(work.shared + Layout::kFull + 8 * i, 1);
      init_barrier(work.shared + Layout::kEmpty + 8 * i, 4 * CONSUMERS);
    }
  }
  fill_patches(a, work.shared + work.layout.patches);
  __syncthreads();

  // The same in all lanes, and known to be.
  const int warp = __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / 32, 0);
  if (warp == 4 * CONSUMERS) {
    produce(work);
  } else {
    consume(work, warp / 4);
  }
}
