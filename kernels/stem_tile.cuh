// The sizes of a float convolution of few input channels on matrix products, and its arguments.
//
// Compiled with
//   ELEMENT                        float16 or bfloat16, of x, the filters and a float output
//   CHANNELS                       input channels
//   KERNEL_ROWS, KERNEL_COLUMNS
//   STRIDE_ROWS, STRIDE_COLUMNS
//   PACKED                         1: the output is bits
//   BIAS, NORM, RELU               1: that follows the sums (the latter two of a float output)
//   WIDE                           1: products of a warpgroup (sm_90a), 0: of a warp
//   PASS_ROWS                      rows of pixels that a warp multiplies at a time: 1 or 2
//   BLOCKS                         on a multiprocessor
//
// A block takes 16 x 16 output pixels at a time: their input, a patch, is read once, and each of
// the four warps multiplies four rows of them with the filters of 64 output channels after the
// other. In shared memory a patch's row is the image's, channels innermost, so that what a kernel
// row sees of a pixel is consecutive: an operand's word (two depths) is one load from somewhere in
// the patch, and nothing is unfolded.
#pragma once

#include "bits.cuh"
#include "tensor_core.cuh"

struct StemArguments {
  const u16* x;
  const u16* weight;
  void* out;  // channels_last, or words of bits
  const u16* bias;
  const float* norm;  // mean, 1 / std, weight, bias: [4, out_channels]
  const float* low;   // packed output: its bits are low <= y <= high
  const float* high;
  i64 stride_image;
  i64 stride_channel;
  i64 stride_row;
  i64 stride_column;
  i64 weight_stride;
  i64 weight_stride_channel;
  i64 weight_stride_row;
  i64 weight_stride_column;
  i64 bias_stride;
  i64 height;
  i64 width;
  i64 padding_rows;
  i64 padding_columns;
  i64 out_channels;
  i64 out_height;
  i64 out_width;
  i64 out_pixel;  // values (or words) from an output pixel to the next, and from row to row
  i64 out_row;
  i64 tiles;
  i64 by_tiles_an_image;
  i64 tiles_an_image;
  i64 by_tiles_a_row;
  i64 tiles_a_row;
  i64 walkers;  // blocks that share the tiles
  i64 channel_groups;
  i64 block_channel_tiles;
};

using Bits = ELEMENT::Bits;

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kWarpRows = 4;  // of output pixels, 16 each: one product's rows
constexpr int kPassRows = PASS_ROWS;
static_assert(kWarpRows % kPassRows == 0);
constexpr int kTileRows = kWarps * kWarpRows;
constexpr int kTileColumns = 16;
constexpr int kTileChannels = 64;
constexpr int kTileWords = kTileChannels / kWordBits;
constexpr int kLaneChannels = 8;  // consecutive channels that a lane holds of every 32

// Depth, in pairs: first those that a kernel row's values fill, row by row; then, of rows with an
// odd number, the last values, each with one that does not count. A step is eight pairs.
constexpr int kRowDepth = KERNEL_COLUMNS * CHANNELS;
constexpr int kRowPairs = kRowDepth / 2;
constexpr int kFullPairs = KERNEL_ROWS * kRowPairs;
constexpr int kPairs = kFullPairs + kRowDepth % 2 * KERNEL_ROWS;
constexpr int kSteps = (kPairs + 7) / 8;
constexpr int kFullSteps = kFullPairs / 8;  // in which everything counts

// Where pair number `pair` stands in a patch or in a filter: a kernel row, and values of it.
struct DepthPair {
  int row;
  int first;
  int values;  // 0 beyond the last pair

  static __device__ DepthPair at(int pair) {
    if (pair >= kPairs) return {0, 0, 0};
    if (pair >= kFullPairs) return {pair - kFullPairs, 2 * kRowPairs, 1};
    constexpr int kDivisor = kRowPairs > 0 ? kRowPairs : 1;  // (Without any, all are odd ones.)
    return {pair / kDivisor, pair % kDivisor * 2, 2};
  }
};

constexpr int kPatchRows = (kTileRows - 1) * STRIDE_ROWS + KERNEL_ROWS;
constexpr int kPatchColumns = (kTileColumns - 1) * STRIDE_COLUMNS + KERNEL_COLUMNS;
constexpr int kWarpPatchRows = (kPatchRows + kWarps - 1) / kWarps;  // that a warp loads
constexpr int kPatchRowElements = kPatchColumns * CHANNELS;
// From a row to the next. That of full pairs modulo 32: so these follow each other through the
// banks for all pixels of an operand, whatever rows they come from.
constexpr int kPitchWords = kRowPairs + (kPatchRowElements / 2 + 1 - kRowPairs + 31) / 32 * 32;
constexpr int kPitchBytes = 4 * kPitchWords;

// Where pixels may start at odd elements there is a second copy, in which those are aligned: moved
// by one element. It starts 16 banks further, as even and odd pixels are read together.
constexpr int kPixelElements = STRIDE_COLUMNS * CHANNELS;
constexpr bool kTwoCopies = kPixelElements % 2 == 1;
constexpr int kCopyBytes = (kWarps * kWarpPatchRows * kPitchBytes + 63) / 128 * 128 + 64;

// Shared memory: copies of the patch, the table of pairs, and for each channel tile its filters and
// rows of constants.
constexpr int kTableAt = (kTwoCopies ? 2 : 1) * kCopyBytes;
constexpr int kTableStepBytes = 64;
constexpr int kTilesAt = (kTableAt + kTableStepBytes * kSteps + 127) / 128 * 128;
constexpr int kStepBytes = 32 * kTileChannels;
constexpr int kFilterBytes = kSteps * kStepBytes;
constexpr int kConstantBytes = 4 * kTileChannels;
// Rows of constants.
constexpr int kNorm = BIAS;
constexpr int kBounds = BIAS;          // two of ELEMENT in one: the lower ones, then the upper ones
constexpr int kNegated = kBounds + 1;  // the signs to invert in pairs of a channel's filter
constexpr int kOthers = kNegated + 1;  // whether there are upper bounds
constexpr int kConstants = BIAS + (PACKED ? 3 : 4 * NORM);
constexpr int kTileBytes = kFilterBytes + kConstants * kConstantBytes;

// Read again, as thread_index is.
__device__ inline int lane_index() { return static_cast<u32>(thread_index()) % 32; }
__device__ inline int warp_index() { return static_cast<u32>(thread_index()) / 32; }

// Output pixels of a block: the first of 16 x 16.
struct Tile {
  int image;
  int row;
  int column;

  static __device__ Tile at(const StemArguments& a, int index) {
    const int image = divide_by(index, a.by_tiles_an_image);
    const int in_image = index - image * static_cast<int>(a.tiles_an_image);
    const int row = divide_by(in_image, a.by_tiles_a_row);
    const int column = in_image - row * static_cast<int>(a.tiles_a_row);
    return {image, row * kTileRows, column * kTileColumns};
  }
};

// Output channels of a block, in tiles of 64 of which the last may be part-filled.
struct ChannelTiles {
  int first;  // channel
  int count;  // tiles

  static __device__ ChannelTiles of(const StemArguments& a, int group) {
    const int most = static_cast<int>(a.block_channel_tiles);
    const int first = group * most * kTileChannels;
    const int left = (static_cast<int>(a.out_channels) - first + kTileChannels - 1) / kTileChannels;
    return {first, left < most ? left : most};
  }
};

// The sums of a warp's pass: of row m of its pixels, columns 8j to 8j + 7 of the channels, as the
// product has them (multiply_half.cuh).
struct Sums {
  float values[kPassRows][kTileChannels / 8][4];

  // This lane's channel i (of its 8) of a word, of pixel lane / 4 or that + 8.
  __device__ float& at(int m, int half, int word, int i) {
    return values[m][word * 4 + i / 2][half * 2 + i % 2];
  }
};

// The channel of a column of the products: lane l of a row holds, of every 32 channels, the 8 from
// 8 * (l % 4) on.
__device__ inline int channel_of(int column) {
  return column / 32 * 32 + column % 8 / 2 * 8 + column % 32 / 8 * 2 + column % 2;
}
