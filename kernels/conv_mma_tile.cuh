// The tile of conv_mma, its arguments, and where its output pixels lie.
//
// Compiled with -DWARP_M and -DWARP_N (pixels and channels of a warp), -DWARPS_M and -DWARPS_N
// (warps down and across the tile), -DWARPS_K (warps that split the depth of the same part), and
// -DPRODUCERS (warps beside these that describe and copy; 0: all warps do both), -DROWS (1: the
// output is packed, or has rows of channels in whole groups of 8), and -DPAIRS (1: packed output is
// decided two channels at a time, bit_pairs.cuh).
#pragma once

#include "barriers.cuh"
#include "epilogue.cuh"
#include "tensor_core.cuh"

constexpr int kTileM = WARP_M * WARPS_M;
constexpr int kTileN = WARP_N * WARPS_N;
constexpr int kConsumers = WARPS_M * WARPS_N * WARPS_K;  // warps that multiply: the block's first
constexpr int kConsumerThreads = 32 * kConsumers;
constexpr int kThreads = kConsumerThreads + 32 * PRODUCERS;
constexpr int kCopiers = PRODUCERS > 0 ? 32 * PRODUCERS : kThreads;  // threads: the block's last
static_assert((kCopiers & (kCopiers - 1)) == 0);
// Of a multiprocessor, as the sums leave registers for them.
constexpr int kBlocks = PRODUCERS > 0 ? 1 : 16 / kConsumers;
constexpr int kProductsM = WARP_M / 16;  // matrix products of a warp, down and across
constexpr int kProductsN = WARP_N / 8;
constexpr int kChunkBytes = 16;  // of the depth: 128 bits; a matrix product takes two
constexpr int kChunkWords = 4;
constexpr int kGroups = WARP_N / 32;  // a lane's channels come in groups of 8
constexpr int kLaneChannels = 8;

using Sums = int[kProductsM][kProductsN][4];

// The plan (binop/_cuda/plan_mma.py) keeps every count of pixels and every size of an image below
// 2**30: only products of them need 64 bits.
struct MmaArguments : ConvArguments {
  i64 pixels;         // of the output, over all images
  i64 channel_tiles;  // over all groups
  i64 pixel_tiles;
  i64 walkers;      // blocks that share the tiles of the same channels
  i64 copy_words;   // of one asynchronous copy from x: 1, 2 or 4
  i64 pixel_words;  // groups * group_words
  i64 filter_words;
  // The patch: the input pixels of a tile, as `segments` runs of `segment_entries` entries.
  i64 patch_per_tap;  // a run per tap, an entry per output pixel; else runs of the padded image
  i64 segments;
  i64 segment_entries;
  i64 tap_entries;    // entries of a segment after the last pixel's first tap
  i64 segment_step;   // padded pixels from one run to the next
  i64 padded_height;  // of the image with its padding
  i64 padded_width;
  i64 padded_plane;
  i64 tap_rows_apart;  // entries between the taps of a pixel
  i64 tap_columns_apart;
  i64 thread_rows;  // kCopiers padded pixels
  i64 thread_columns;
  i64 fold;  // neighbouring taps of a row in one chunk, where a pixel has few words
  // The depth: stages of stage_planes chunks of every pixel, each at tap_chunks places.
  i64 tap_chunks;
  i64 folds;  // chunks of a row of taps
  i64 stage_planes;
  i64 stages;
  i64 resident;     // all filters of the tile stay in shared memory
  i64 slots;        // of the ring of stages
  i64 patch_bytes;  // of a stage
  i64 filter_bytes;
  i64 filter_pitch;  // in bytes: an odd number of chunks
  i64 pair_bytes;    // of 16 filters
  // Pixels whose taps outside the image are the same form a class, by row and by column.
  i64 row_classes;
  i64 column_classes;
  i64 first_row_class;
  i64 first_column_class;
  // For divide_by.
  i64 by_plane;
  i64 by_width;
  i64 by_padded_plane;
  i64 by_padded_width;
  i64 by_dilation_rows;
  i64 by_dilation_columns;
  i64 by_group_words;
  i64 by_kernel_columns;
  i64 by_stage_planes;
  i64 by_folds;
  // Where what lies in shared memory, in bytes.
  i64 ring_at;
  i64 set_bits_at;
  i64 sources_at;
  i64 table_at;
  i64 spots_at;
  i64 rows_at;
  i64 taps_at;
  i64 chunks_at;
  i64 channels_at;
  i64 scratch_at;
  i64 barriers_at;
};

// Barriers by number, beside that of all threads.
constexpr int kConsumerBarrier = 1;
constexpr int kCopierBarrier = 2;

__device__ inline void sync_consumers() { sync_threads<kConsumerThreads>(kConsumerBarrier); }

// (As unsigned numbers: a single instruction each.)
__device__ inline int lane_index() { return thread_index() & 31; }
__device__ inline int warp_index() {
  return static_cast<int>(static_cast<u32>(thread_index()) / 32);
}

// This thread among those that copy.
__device__ inline int copier_index() { return thread_index() - (kThreads - kCopiers); }

template <class T>
__device__ inline T* at(u8* shared, i64 offset) {
  return reinterpret_cast<T*>(shared + static_cast<int>(offset));
}

// This warp's place in the tile.
struct Warp {
  int m;
  int n;
  int k;

  static __device__ Warp of_thread() {
    const int warp = warp_index();
    return {warp / WARPS_N % WARPS_M, warp % WARPS_N, warp / (WARPS_N * WARPS_M)};
  }
};

// What is fixed for a block: its group and its output channels.
struct Block {
  int group;
  int first_channel;
  int channels;  // of the tile, at most kTileN

  static __device__ Block at(const MmaArguments& a, int index) {
    const int out_per_group = static_cast<int>(a.out_channels) / static_cast<int>(a.groups);
    const int tiles = (out_per_group + kTileN - 1) / kTileN;
    const int group = index / tiles;
    const int skipped = index % tiles * kTileN;
    const int left = out_per_group - skipped;
    return {group, group * out_per_group + skipped, left < kTileN ? left : kTileN};
  }
};

struct Place {
  int image;
  int row;  // of the output
  int column;

  static __device__ Place of_pixel(const MmaArguments& a, int pixel) {
    const int image = divide_by(pixel, a.by_plane);
    const int position = pixel - image * static_cast<int>(a.out_height * a.out_width);
    const int row = divide_by(position, a.by_width);
    return {image, row, position - row * static_cast<int>(a.out_width)};
  }

  // Of the input pixel under the first tap, in the padded images from `image` on.
  __device__ int padded(const MmaArguments& a, int from_image) const {
    return (image - from_image) * static_cast<int>(a.padded_plane) +
           row * static_cast<int>(a.stride_rows) * static_cast<int>(a.padded_width) +
           column * static_cast<int>(a.stride_columns);
  }
};

// A tile of output pixels.
struct Tile {
  int first_pixel;
  int image;    // of the first pixel
  int padded;   // its place in that image
  int entries;  // of the patch, up to the last that the tile needs

  static __device__ Tile at(const MmaArguments& a, int index) {
    const int first_pixel = index * kTileM;
    const Place place = Place::of_pixel(a, first_pixel);
    Tile tile = {first_pixel, place.image, place.padded(a, place.image), kTileM};
    if (!a.patch_per_tap) {
      const int last = tile.place(a, kTileM - 1).padded(a, place.image);
      tile.entries = last - tile.padded + 1 + static_cast<int>(a.tap_entries);
    }
    tile.entries += static_cast<int>((a.segments - 1) * a.segment_entries);
    return tile;
  }

  // Of a row of the tile; rows past the last pixel repeat it.
  __device__ Place place(const MmaArguments& a, int row) const {
    const int last = static_cast<int>(a.pixels) - 1;
    return Place::of_pixel(a, first_pixel + row < last ? first_pixel + row : last);
  }

  // The row's entry in the patch, under the first tap.
  __device__ int entry(const MmaArguments& a, int row, const Place& place) const {
    return a.patch_per_tap ? row : place.padded(a, image) - padded;
  }
};
