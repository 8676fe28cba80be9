// The input of a tile of pixels -> shared memory, zeros outside of the image.
//
// x may have any strides: elements are read one by one, consecutive ones of a row by the lanes of a
// warp. Of an image in channels_last these are consecutive in memory, too.
#pragma once

#include "stem_tile.cuh"
// (After the sizes.)
#include "hopper.cuh"

constexpr int kPositions = (kPatchRowElements + 31) / 32;  // of a lane in a row
// Registers for where rows begin, and for loads that are in flight together.
constexpr int kLoadRegisters = 50;
constexpr int kWantedAtOnce = (kLoadRegisters - kWarpPatchRows) / kWarpPatchRows;
constexpr int kAtOnce = kWantedAtOnce < 1            ? 1
                        : kWantedAtOnce > kPositions ? kPositions
                                                     : kWantedAtOnce;

// Whether what lanes load beyond a row's end fits between rows. (There is room for all rows.)
constexpr bool kRowsHaveRoom = kPositions * 32 < kPitchBytes / 2;

__device__ inline void store_element(u8* patch, int row, int element, Bits value) {
  Bits* to = reinterpret_cast<Bits*>(patch + row * kPitchBytes) + element;
  *to = value;
  // Of a row's first element this is the end of the row before, which nothing else writes to.
  if constexpr (kTwoCopies) to[kCopyBytes / 2 - 1] = value;
}

// Offsets within an image fit 32 bits (the plan sees to it).
__device__ inline void load_patch(const StemArguments& a, const Tile& tile, u8* patch) {
  const int lane = lane_index();
  const int warp = warp_index();
  const int first_row = tile.row * STRIDE_ROWS - static_cast<int>(a.padding_rows) + warp;
  const int first_column = tile.column * STRIDE_COLUMNS - static_cast<int>(a.padding_columns);
  const void* image = a.x + tile.image * a.stride_image;
  keep(image);  // (The compiler would compute it again for each load.)
  const int next_channel = static_cast<int>(a.stride_channel);
  const int next_column = static_cast<int>(a.stride_column);
  int rows[kWarpPatchRows];  // where they begin; negative: outside of the image
#pragma unroll
  for (int j = 0; j < kWarpPatchRows; ++j) {
    const u32 row = static_cast<u32>(first_row + j * kWarps);
    rows[j] = row < static_cast<u32>(a.height)
                  ? static_cast<int>(row) * static_cast<int>(a.stride_row)
                  : -1;
    keep(rows[j]);
  }
#pragma unroll 1
  for (int begin = 0; begin < kPositions; begin += kAtOnce) {
    Bits values[kAtOnce][kWarpPatchRows];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const u32 element = (begin + i) * 32 + lane;
      const u32 column = static_cast<u32>(first_column + element / CHANNELS);
      const bool inside = column < static_cast<u32>(a.width);
      const int from = static_cast<int>(element % CHANNELS) * next_channel +
                       static_cast<int>(column) * next_column;
#pragma unroll
      for (int j = 0; j < kWarpPatchRows; ++j) {
        values[i][j] =
            load_if(inside && rows[j] >= 0, static_cast<const Bits*>(image) + (rows[j] + from));
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int element = (begin + i) * 32 + lane;
#pragma unroll
      for (int j = 0; j < kWarpPatchRows; ++j) {
        if (kRowsHaveRoom || element < kPatchRowElements) {
          store_element(patch, warp + j * kWarps, element, values[i][j]);
        }
      }
    }
  }
}
