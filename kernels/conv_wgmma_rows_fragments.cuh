// The fragments of a tile's pixels in conv_wgmma_rows: loads from a patch, as it was copied, into
// the registers of the products.
#pragma once

#include "conv_wgmma_rows_tile.cuh"

// Where this lane's words of a load lie, from a pixel's first tap on, in bytes.
struct LaneDepth {
  static constexpr int kLoads = WORDS == 1 ? kChunks : kSpans;  // of a row of the fragments
  // The taps of a load are the same in all lanes, or in the columns of the same row of taps.
  static constexpr bool kUniform = WORDS >= kStepWords || kRowSpans;

  int of_lane[kUniform ? 1 : kLoads];
  int tap_rows;
  int tap_columns;

  static __device__ LaneDepth of(const WgmmaArguments& a) {
    LaneDepth depth;
    depth.tap_rows = static_cast<int>(a.dilation_rows * a.pitch_bytes);
    depth.tap_columns = static_cast<int>(a.dilation_columns) * kPixelBytes;
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < (kUniform ? 1 : kLoads); ++i) {
      const int first = WORDS == 1 ? i : i * kSpanChunks;
      const Depth at = kMatrices ? Depth::at(first + lane / 16, 0) : Depth::at(first, lane % 4);
      // Without bits in the filters, any words will do.
      depth.of_lane[i] = depth.of_tap(at.tap < kTaps ? at.tap : 0) + at.word * 4;
      keep(depth.of_lane[i]);
    }
    return depth;
  }

  __device__ int of_tap(int tap) const {
    return tap / KERNEL_COLUMNS * tap_rows + tap % KERNEL_COLUMNS * tap_columns;
  }

  // What is the same in all loads of a row comes first: a load adds a uniform register for nothing.
  __device__ u32 row(u32 place) const {
    if constexpr (kUniform) place += of_lane[0];
    keep(place);
    return place;
  }

  __device__ u32 address(u32 row, int load) const {
    return row + (kUniform ? of_tap(load * kSpanTaps) : of_lane[load]);
  }
};

// Where the pixels of this lane's two rows have their first taps, and their border classes.
// ldmatrix wants to know the place of another pixel: see load_matrices.
struct PixelPlaces {
  static constexpr int kLoaded = kMatrices ? 1 : 2;

  u32 at[kLoaded];
  u32 border[2];
};

// What this lane reads of a tile's places.
struct LanePlaces {
  u32 at;
  u32 border;

  // `stages` is where the places of the first stage are, `warp` the first row of this lane's.
  static __device__ LanePlaces of(u32 stages, int warp) {
    const int lane = threadIdx.x % 32;
    const u32 first = stages + 4 * warp;
    LanePlaces lanes = {first + 4 * (kMatrices ? lane % 16 : lane / 4),
                        first + 4 * (lane / 4) + Places::kBorders};
    hold(lanes.at);
    if constexpr (kMatrices) hold(lanes.border);
    return lanes;
  }

  __device__ PixelPlaces load(u32 stage) const {
    const u32 from = at + stage;
    const u32 borders = kMatrices ? border + stage : from + Places::kBorders;
    PixelPlaces loaded;
#pragma unroll
    for (int i = 0; i < PixelPlaces::kLoaded; ++i) loaded.at[i] = load_shared(from + 32 * i);
#pragma unroll
    for (int half = 0; half < 2; ++half) loaded.border[half] = load_shared(borders + 32 * half);
    return loaded;
  }
};

// ldmatrix and loads of single words put words where products want them. Of 8 words a pixel, rows
// for ldmatrix would fall into half of the banks, of 16 into a quarter: there neighbouring words
// are loaded at once, and moved.
struct Fragments {
  u32 registers[kSteps][4];

  __device__ void load(const PixelPlaces& places, const LaneDepth& depth) {
    u32 rows[PixelPlaces::kLoaded];
#pragma unroll
    for (int i = 0; i < PixelPlaces::kLoaded; ++i) rows[i] = depth.row(places.at[i]);
#pragma unroll
    for (int i = 0; i < LaneDepth::kLoads; ++i) {
      if constexpr (kMatrices) {
        load_matrices(registers[i], depth.address(rows[0], i));
      } else {
#pragma unroll
        for (int half = 0; half < 2; ++half) load_row(i, half, depth.address(rows[half], i));
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

  // Behind the products. (Else what may not be loaded again, at the end, is moved aside.)
  __device__ void forget() {
#pragma unroll
    for (auto& step : registers) {
#pragma unroll
      for (u32& word : step) ::forget(word);
    }
  }

 private:
  // Of one of this lane's rows.
  __device__ void load_row(int load, int half, u32 from) {
    constexpr int kWords = WORDS == 1 ? 1 : kSpanChunks;  // of a load, a chunk each
    u32 words[kWords];
    if constexpr (WORDS == 2) {
      words[0] = load_shared(from);
      words[1] = load_shared(from + 4);
    } else {
      load_words<kWords>(words, from);
    }
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      const int chunk = load * kWords + i;
      registers[chunk / 2][chunk % 2 * 2 + half] = words[i];
    }
  }
};
