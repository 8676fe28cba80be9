// The tile of conv_wgmma_rows, its arguments and its shared memory.
//
// Compiled with
//   OUT         float16, bfloat16, float32 or bits
//   TILE_N      output channels of a block, a multiple of 32
//   CONSUMERS   warpgroups that multiply: 64 output pixels each of the block's tile
//   KERNEL_ROWS, KERNEL_COLUMNS
//   WORDS       of a pixel: 1, 2, 4, 8 or 16
//   STORES      how floats are stored: kWide, kSingle or kPixels
//   BIAS        1 where floats have one
//   NARROW      1 where half a word holds what a border class adds to floats
//   PAD_ONES    1 where taps outside the image count as +1
//   MASKED      1 where a pixel's last word has a tail
//   RESIDUAL    1: the output is the one of conv_wgmma_residual.cuh, whose macros come with it
//
// A patch is what a tile of pixels reads: some rows of the padded images, as they lie in memory,
// pixel by pixel. Before it stand the places of the tile's pixels in it. A product takes 8 words of
// depth, two a lane of the four that share a row: see Depth for which.
#pragma once

#include "conv_wgmma_channels.cuh"

struct WgmmaArguments : ConvArguments {
  i64 channel_tiles;
  i64 channel_tiles_inverse;
  i64 pixel_tiles;
  i64 walkers;      // blocks with the same channels
  i64 step_pixels;  // from a tile of a block to its next
  i64 step_words;   // of packed output
  i64 stages;       // patches in flight
  i64 stage_bytes;
  i64 row_bytes;     // of the image
  i64 pitch_bytes;   // from a row of a patch to the next
  i64 first_bytes;   // from there to the first tap of the first output
  i64 inside_bytes;  // to the image's first pixel: a multiple of 16
  i64 image_rows;    // of one padded image
  i64 by_image_rows;
  i64 by_out_width;
  i64 by_out_height;
  i64 by_plane;     // outputs of an image
  i64 spots_bytes;  // of theirs
  i64 image_bytes;  // of a padded image
  i64 step_spots;   // bytes from a tile of a block to its next, less whole images
  i64 step_images;  // and those
  i64 step_rows;    // rows of the padded image from one output row to the next
  i64 skip_rows;    // rows of the image from one row of the padded image to the next
  i64 reach_rows;   // rows of the padded image under one output pixel
  i64 window_rows;  // and of the image
  i64 reach_columns;
  i64 tap_rows_inverse;
  i64 tap_columns_inverse;
  i64 cut_first_rows;  // most taps that the border cuts off: first and last rows and columns
  i64 cut_last_rows;   // (all 0 where the taps outside count like those inside)
  i64 cut_first_columns;
  i64 cut_last_columns;
};

constexpr int kTileM = kProductM * CONSUMERS;
constexpr int kConsumerThreads = kWarpgroup * CONSUMERS;
constexpr int kThreads = kConsumerThreads + kWarpgroup;  // and the producers
constexpr int kProducers = kWarpgroup / 32;              // warps
constexpr int kTaps = KERNEL_ROWS * KERNEL_COLUMNS;
constexpr int kStepWords = 8;  // of depth, in a product
// A span is whole taps of whole products: so many as there is room for, or where that makes as few
// spans those of one row of the kernel.
constexpr int kSpanWords = WORDS > kStepWords ? WORDS : kStepWords;
constexpr int kSpanRoom = kSpanWords / WORDS;
constexpr int kSpanChunks = kSpanWords / kChunkWords;
constexpr int kSpans = (kTaps + kSpanRoom - 1) / kSpanRoom;
constexpr bool kRowSpans = WORDS == 2 && KERNEL_COLUMNS <= kSpanRoom && kSpans == KERNEL_ROWS;
constexpr int kSpanTaps = kRowSpans ? KERNEL_COLUMNS : kSpanRoom;
constexpr int kChunks = kSpans * kSpanChunks;
constexpr int kSteps = kChunks / 2;  // products of a tile
constexpr int kPixelBytes = 4 * WORDS;
// Sixteen more columns have all bits set: their sums are popc(a), in every lane.
constexpr int kColumns = TILE_N + 16;

// Registers of a thread. Of three consumers or more, and of two with many fragments, the producers
// give up what they do not need: a block owns what it was launched with, and more would be waited
// for forever.
constexpr int kManySteps = 10;
constexpr int kLaunchRegisters = 65536 / kThreads / 8 * 8;
constexpr int kProducerRegisters = Channel<OUT>::kPacked ? 40 : 56;
constexpr int kConsumerRegisters =
    (kLaunchRegisters * (1 + CONSUMERS) - kProducerRegisters) / CONSUMERS / 8 * 8;
constexpr bool kHandsOver =
    CONSUMERS >= (kSteps >= kManySteps ? 2 : 3) && kConsumerRegisters > kLaunchRegisters;
constexpr int kRegisters = kHandsOver ? kConsumerRegisters : kLaunchRegisters;
// Of a consumer, beside its sums and fragments.
constexpr int kSpareRegisters = kRegisters - kColumns / 2 - 4 * kSteps;
constexpr int kFilterChunkBytes = kColumns * kChunkBytes;
constexpr int kSetSum = TILE_N / 2;  // where a lane finds that sum; of its other row, 2 further

// Whether there are registers, beside a tile's sums, for the next tile's fragments and for what
// could be computed again. (Registers are given to four warps at a time. Floats take more, and
// their time goes to memory.)
constexpr bool kRoomy = Channel<OUT>::kPacked && kSpareRegisters >= (kHandsOver ? 44 : 48);

__device__ inline void hold(u32& value) {
  if constexpr (kRoomy) pin(value);
}

// Fragments come by ldmatrix, where a chunk is a pixel.
constexpr bool kMatrices = WORDS == kChunkWords;
// A lane's words of a span are neighbours in memory.
constexpr bool kNeighbours = WORDS == 2 || WORDS >= kStepWords;

// The order of depth. Chunk 2k + i, word t is what lane t of the four that share a row holds in
// register 2i (+ 1 for its other row) of step k.
struct Depth {
  int tap;  // kTaps or more: none, where the filters have no bits
  int word;

  static __device__ Depth at(int chunk, int t) {
    const int in_span = chunk % kSpanChunks;
    const int word = kNeighbours ? t * kSpanChunks + in_span : in_span * kChunkWords + t;
    const int tap = chunk / kSpanChunks * kSpanTaps + word / WORDS;
    return {word / WORDS < kSpanTaps ? tap : kTaps, word % WORDS};
  }
};

template <int Words>
__device__ inline void load_words(u32* to, u32 from) {
  if constexpr (Words == 4) {
    const uint4 loaded = load_chunk(from);
    to[0] = loaded.x;
    to[1] = loaded.y;
    to[2] = loaded.z;
    to[3] = loaded.w;
  } else if constexpr (Words == 2) {
    load_pair(to[0], to[1], from);
  } else {
    to[0] = load_shared(from);
  }
}

// Where the first tap of an output pixel lies in its padded image, in bytes, and its border class.
struct Spot {
  static constexpr int kClassBits = 12;

  static __device__ u32 make(int offset, int border) {
    return static_cast<u32>(offset) << kClassBits | static_cast<u32>(border);
  }
  static __device__ u32 offset_of(u32 spot) { return spot >> kClassBits; }
  static __device__ u32 border_of(u32 spot) { return spot & ((1u << kClassBits) - 1); }
};

// Addresses in shared memory: barriers, constants of the channels, counted bits, the table,
// spots, filters, patches.
struct Layout {
  static constexpr int kFull = 0;  // barriers of 8 bytes: patches filled
  static constexpr int kEmpty = kFull + 8 * kMaxStages;
  static constexpr int kCopied = kEmpty + 8 * kMaxStages;  // barrier: the filters are there
  static constexpr int kTabled = kCopied + 8;              // barrier: so is the table
  static constexpr int kSpotted = kTabled + 8;             // barrier: and the spots
  static constexpr int kAlpha = kSpotted + 16;             // float [kConstants][TILE_N]
  static constexpr int kAddend = kAlpha + 4 * TILE_N;
  static constexpr int kToggle = kAlpha;  // packed output instead: u32 [TILE_N / 32]
  static constexpr int kExists = kAlpha + 4 * (TILE_N / kWordBits);
  static constexpr int kThresholds = kAlpha + 4 * TILE_N * kConstants;  // int [TILE_N]
  static constexpr int kCounted = kThresholds + 4 * TILE_N;             // int [kTaps][TILE_N]
  static constexpr int kTable = kCounted + 4 * TILE_N * kTaps;          // [classes], per channel
  static constexpr int kClassBytes =
      (NARROW ? 2 : 4) * TILE_N + (Channel<OUT>::kPacked && TILE_N % 64 == 0 ? 128 : 0);

  static constexpr int kBorderBytes = 1;  // what LaneRows counts borders in

  int spots;  // u32 [plane]
  int parts;  // of spots: u32 [out_height + out_width]
  int filters;
  int copies;  // of the filters, as they lie in memory
  int patches;

  static __device__ Layout of(const WgmmaArguments& a) {
    Layout layout;
    layout.spots = kTable + kClassBytes * classes(a);
    layout.parts = layout.spots + static_cast<int>(a.spots_bytes);
    const int parts = static_cast<int>(a.out_height) + static_cast<int>(a.out_width);
    layout.filters = (layout.parts + 4 * parts + 127) / 128 * 128;
    layout.copies = layout.filters + kChunks * kFilterChunkBytes;
    layout.patches = layout.copies + TILE_N * kTaps * kPixelBytes;
    return layout;
  }

  static __device__ int column_classes(const WgmmaArguments& a) {
    return static_cast<int>(1 + a.cut_first_columns + a.cut_last_columns);
  }

  static __device__ int row_classes(const WgmmaArguments& a) {
    return static_cast<int>(1 + a.cut_first_rows + a.cut_last_rows);
  }

  static __device__ int classes(const WgmmaArguments& a) {
    return row_classes(a) * column_classes(a);
  }
};

// What producers say of a tile's pixels, at the start of its stage.
struct Places {
  static constexpr int kBorders = 4 * kTileM;  // u32 [kTileM]: bytes into the table
  static constexpr int kBytes = 8 * kTileM;    // before: the address of a pixel's first tap
};

// What every role knows of its block.
struct Work {
  const WgmmaArguments& a;
  Channels channels;
  Layout layout;
  int first_tile;
  int walkers;
  u32 shared;  // address of the dynamic shared memory

  static __device__ Work of(const WgmmaArguments& a, u32 shared) {
    const int block = static_cast<int>(blockIdx.x);
    const int walker = divide_small(block, a.channel_tiles_inverse);
    const int channel_tile = block - walker * static_cast<int>(a.channel_tiles);
    return {a,
            Channels::at(0, channel_tile, a.out_channels),
            Layout::of(a),
            walker,
            static_cast<int>(a.walkers),
            shared};
  }
};
