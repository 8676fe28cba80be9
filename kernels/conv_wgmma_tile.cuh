// The tile of conv_wgmma and conv_wgmma_in_place, its arguments and its shared memory.
//
// Compiled with
//   IN_PLACE    1 in conv_wgmma_in_place, with
//   BLOCKS      times 64 places of its tile, which one consumer multiplies
//   OUT         float16, bfloat16, float32 or bits
//   TILE_N      output channels of a block, a multiple of 32 up to 256
//   CONSUMERS   warpgroups that multiply: 64 output pixels each of the block's tile
//   KERNEL_ROWS, KERNEL_COLUMNS
//   WORD_TAPS   taps of a kernel row that share 16 bytes of depth: 4, 2 or 1 for groups of one
//               word, of two, of more
//   PLANES      16-byte planes of a patch: pieces of the channels (WORD_TAPS 1), or as many whole
//               taps as fit and the rest of a kernel row
//   PARTIAL     1 where the last planes have fewer words of the channels (WORD_TAPS 1)
//   COPY_WORDS  words of one asynchronous copy; divides group_words and 4
//   STORES      how floats are stored: kWide, kSingle or kPixels
//   BIAS        1 where floats have one
//   NARROW      1 where half a word holds what a border class adds to floats
//   PAD_ONES    1 where taps outside the image count as +1
//   MASKED      1 where a group's last word has a tail
//   RESIDUAL    1: the output is the one of conv_wgmma_residual.cuh, whose macros come with it
//
// The depth is cut into slabs of PLANES * 128 channels. A patch is what a tile of pixels reads of
// a slab: whole rows of the (virtually) padded image, so that a tap is an offset into it. Behind it
// stand two words a row of the tile (RowWords).
#pragma once

#include "conv_wgmma_channels.cuh"

struct WgmmaArguments : ConvArguments {
  i64 walkers;  // blocks with the same channels
  i64 walkers_inverse;
  i64 group_channel_tiles;
  i64 group_channel_tiles_inverse;
  i64 out_per_group;
  i64 pixel_tiles;
  i64 slabs;
  i64 stages;  // patches in flight
  i64 stage_bytes;
  i64 copied_bytes;   // of filters as they lie in memory (conv_wgmma_copies.cuh); 0: not copied
  i64 plane_bytes;    // of a patch
  i64 patch_columns;  // pixels of a row of the padded image
  i64 patch_columns_inverse;
  i64 patch_rows;  // rows of one padded image
  i64 patch_rows_inverse;
  i64 by_patch_columns;
  i64 by_patch_rows;
  i64 out_width_inverse;
  i64 out_height_inverse;
  i64 reach_places;  // in place: from an output pixel's first tap to its last
  i64 reach_rows;    // rows of the padded image under one output pixel
  i64 reach_columns;
  i64 step_rows;  // rows of the padded image from one output row to the next
  i64 step_columns;
  i64 skip_rows;  // rows of the image from one row of the padded image to the next
  i64 skip_columns;
  i64 tap_rows;  // rows of the padded image from one tap to the next
  i64 tap_columns;
  i64 tap_rows_inverse;
  i64 tap_columns_inverse;
  i64 skip_images;  // from a tile to the block's next: images, output rows and columns
  i64 skip_out_rows;
  i64 skip_out_columns;
  i64 cut_first_rows;  // most taps that the border cuts off: first and last rows and columns
  i64 cut_last_rows;   // (all 0 where the taps outside count like those inside)
  i64 cut_first_columns;
  i64 cut_last_columns;
  i64 column_classes_inverse;
};

constexpr int kTileM = kProductM * (IN_PLACE ? BLOCKS : CONSUMERS);
// In place, sixteen more columns have all bits set: their sums are popc(a), in every lane.
constexpr int kSetColumns = IN_PLACE ? 16 : 0;
constexpr int kColumns = TILE_N + kSetColumns;  // of a product
constexpr int kSetSum = TILE_N / 2;  // where a lane finds that sum; of its other row, 2 further
constexpr int kThreads = kWarpgroup * (1 + CONSUMERS);
constexpr int kTaps = KERNEL_ROWS * KERNEL_COLUMNS;
constexpr int kRowPieces = (KERNEL_COLUMNS + WORD_TAPS - 1) / WORD_TAPS;  // WORD_TAPS > 1
constexpr int kUsedChunks = WORD_TAPS > 1 ? KERNEL_ROWS * kRowPieces : kTaps * PLANES;
constexpr int kSteps = (kUsedChunks + 1) / 2;  // matrix products of a slab
constexpr int kSlabChunks = 2 * kSteps;
constexpr bool kHalfStep = kUsedChunks < kSlabChunks;  // the last product's second half is clear
constexpr int kFilterChunkBytes = kColumns * kChunkBytes;

// Registers of a thread: what the producers give up goes to the consumers. A block owns what it was
// launched with; more would be waited for forever.
constexpr int kLaunchRegisters = 65536 / kThreads / 8 * 8;
constexpr int kProducerRegisters = IN_PLACE ? 56 : CONSUMERS == 2 ? 72 : CONSUMERS == 3 ? 80 : 64;
constexpr int kConsumerRegisters =
    (kLaunchRegisters * (1 + CONSUMERS) - kProducerRegisters) / CONSUMERS / 8 * 8;
// Of a consumer, beside its sums and the fragments that products may still be reading.
constexpr int kSpareRegisters = (CONSUMERS == 1 ? 255 : kConsumerRegisters) -
                                (IN_PLACE ? BLOCKS * kColumns / 2 : kColumns / 2 + 4 * kSteps);

// Addresses in shared memory: barriers of the patches, constants of the channels, counted bits,
// filters, patches (STAGES of them).
struct Layout {
  static constexpr int kFull = 0;  // barriers of 8 bytes: patches filled
  static constexpr int kEmpty = kFull + 8 * kMaxStages;
  static constexpr int kCopied = kEmpty + 8 * kMaxStages;  // barrier: the filters are there
  static constexpr int kTabled = kCopied + 8;              // barrier: so is the table
  // Constants of the channels: float [kConstants][TILE_N].
  static constexpr int kAlpha = kTabled + 8;
  static constexpr int kAddend = kAlpha + 4 * TILE_N;
  static constexpr int kToggle = kAlpha;  // packed output instead: u32 [TILE_N / 32]
  static constexpr int kExists = kAlpha + 4 * (TILE_N / kWordBits);
  static constexpr int kThreshold = kAddend;                       // int [TILE_N]
  static constexpr int kTable = kAlpha + 4 * TILE_N * kConstants;  // [classes], per channel
  static constexpr int kClassBytes =
      (NARROW ? 2 : 4) * TILE_N + (Channel<OUT>::kPacked && TILE_N % 64 == 0 ? 128 : 0);
  static constexpr int kBorderBytes = kClassBytes;  // what LaneRows counts borders in

  int counted;  // int [kTaps][TILE_N]
  int filters;
  int copies;  // of the filters, as they lie in memory
  int patches;

  static __device__ Layout of(const WgmmaArguments& a) {
    Layout layout;
    layout.counted = kTable + kClassBytes * classes(a);
    layout.filters = (layout.counted + 4 * TILE_N * kTaps + 127) / 128 * 128;
    layout.copies = layout.filters + static_cast<int>(a.slabs) * kSlabChunks * kFilterChunkBytes;
    layout.patches = layout.copies + static_cast<int>(a.copied_bytes);
    return layout;
  }

  static __device__ int row_classes(const WgmmaArguments& a) {
    return static_cast<int>(1 + a.cut_first_rows + a.cut_last_rows);
  }

  static __device__ int column_classes(const WgmmaArguments& a) {
    return static_cast<int>(1 + a.cut_first_columns + a.cut_last_columns);
  }

  static __device__ int classes(const WgmmaArguments& a) {
    return row_classes(a) * column_classes(a);
  }
};

// Where the depth's chunks lie in a patch, in bytes from the pixel under the first tap.
struct ChunkSteps {
  int row;  // from one row of taps to the next
  int column;
  int plane;

  static __device__ ChunkSteps of(const WgmmaArguments& a) {
    return {static_cast<int>(a.tap_rows * a.patch_columns) * kChunkBytes,
            static_cast<int>(a.tap_columns) * kChunkBytes, static_cast<int>(a.plane_bytes)};
  }

  // For a chunk that the compiler knows. One that is not used has no filter bits; it is read where
  // the one before it is.
  __device__ int offset(int chunk) const {
    if (chunk >= kUsedChunks) chunk = kUsedChunks - 1;
    if constexpr (WORD_TAPS > 1) {
      const int piece = chunk % kRowPieces;
      return chunk / kRowPieces * row + piece * WORD_TAPS * column +
             (piece == kRowPieces - 1 ? PLANES - 1 : 0) * plane;
    } else {
      const int tap = chunk / PLANES;
      return tap / KERNEL_COLUMNS * row + tap % KERNEL_COLUMNS * column + chunk % PLANES * plane;
    }
  }
};

// What stands behind a patch, for every row of the tile.
struct RowWords {
  static constexpr int kBytes = 8;

  u32 place;  // the patch's pixel under the row's first tap; in the high half its border class
  int pixel;  // of the output; negative: none

  __device__ static u32 at(u32 words, int row) { return words + row * kBytes; }
  __device__ static u32 entry_of(u32 place) { return place & 0xFFFFu; }
  __device__ static u32 border_of(u32 place) { return place >> 16; }
};
