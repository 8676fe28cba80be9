// Where the output pixels of a tile of conv_wgmma_rows find their first taps, and their border
// classes: the producers write both for the consumers, which have more to do, from a table of one
// image that the consumers make while they wait for the filters.
#pragma once

#include "conv_wgmma_border.cuh"
#include "conv_wgmma_rows_tile.cuh"

// A spot is the sum of its row's part and its column's.
__device__ inline void write_parts(const Work& work) {
  const WgmmaArguments& a = work.a;
  const int height = static_cast<int>(a.out_height);
  const int parts = height + static_cast<int>(a.out_width);
#pragma unroll 1
  for (int i = threadIdx.x; i < parts; i += kConsumerThreads) {
    const bool of_row = i < height;
    const BorderAxis axis = {
        static_cast<int>(of_row ? a.stride_rows : a.stride_columns),
        static_cast<int>(of_row ? a.padding_rows : a.padding_columns),
        static_cast<int>(of_row ? a.dilation_rows : a.dilation_columns),
        of_row ? a.tap_rows_inverse : a.tap_columns_inverse,
        static_cast<int>(of_row ? a.window_rows - a.height : a.reach_columns - a.width),
        static_cast<int>(of_row ? a.cut_first_rows : a.cut_first_columns)};
    const int output = of_row ? i : i - height;
    const int border = Layout::classes(a) > 1 ? axis.class_of(output) : 0;
    const int step = of_row ? static_cast<int>(a.step_rows * a.pitch_bytes)
                            : static_cast<int>(a.stride_columns) * kPixelBytes;
    const int offset = output * step + (of_row ? static_cast<int>(a.first_bytes) : 0);
    store_shared(work.shared + work.layout.parts + 4 * i,
                 Spot::make(offset, of_row ? border * Layout::column_classes(a) : border));
  }
}

// A row a warp.
__device__ inline void write_spots(const Work& work) {
  const int height = static_cast<int>(work.a.out_height);
  const int width = static_cast<int>(work.a.out_width);
  const u32 parts = work.shared + work.layout.parts;
#pragma unroll 1
  for (int row = threadIdx.x / 32; row < height; row += kConsumerThreads / 32) {
    const u32 of_row = load_shared(parts + 4 * row);
#pragma unroll 1
    for (int column = threadIdx.x % 32; column < width; column += 32) {
      store_shared(work.shared + work.layout.spots + 4 * (row * width + column),
                   of_row + load_shared(parts + 4 * (height + column)));
    }
  }
}

// A producer's pixels from tile to tile: a division would take longer than such a step.
struct PlaceWalk {
  static constexpr int kPixels = (kTileM + kWarpgroup - 1) / kWarpgroup;

  const WgmmaArguments& a;
  u32 spots[kPixels];   // where those of the next tile lie
  u32 images[kPixels];  // and their padded images, from the first
  u32 end;              // of the spots

  static __device__ int thread() { return static_cast<int>(threadIdx.x) - kConsumerThreads; }

  static __device__ PlaceWalk from(const Work& work) {
    const WgmmaArguments& a = work.a;
    const u32 first = work.shared + work.layout.spots;
    PlaceWalk walk = {a, {}, {}, first + static_cast<u32>(a.spots_bytes)};
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      const int pixel = work.first_tile * kTileM + i * kWarpgroup + thread();
      const int image = divide_by(pixel, a.by_plane);
      walk.spots[i] = first + 4 * pixel - image * static_cast<u32>(a.spots_bytes);
      walk.images[i] = image * static_cast<u32>(a.image_bytes);
    }
    return walk;
  }

  // `origin` is where the first of the padded images would begin. (Past the last image are places
  // of pixels that do not exist, in the patch like others.)
  __device__ void write(u32 origin, u32 places) {
    u32 loaded[kPixels];
#pragma unroll
    for (int i = 0; i < kPixels; ++i) loaded[i] = load_shared(spots[i]);
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      const int of_tile = i * kWarpgroup + thread();
      if (kTileM % kWarpgroup == 0 || of_tile < kTileM) {
        const u32 place = places + 4 * of_tile;
        store_shared(place, origin + images[i] + Spot::offset_of(loaded[i]));
        store_shared(place + Places::kBorders, Spot::border_of(loaded[i]) * Layout::kClassBytes);
      }
      spots[i] += static_cast<u32>(a.step_spots);
      images[i] += static_cast<u32>(a.step_images);
      if (spots[i] >= end) {
        spots[i] -= static_cast<u32>(a.spots_bytes);
        images[i] += static_cast<u32>(a.image_bytes);
      }
    }
  }
};
