// The producers of conv_wgmma: they fill patches with activations, and describe the rows of the
// tile that reads them.
#pragma once

#include "conv_wgmma_tile.cuh"

// The first output pixel of a tile, carried from tile to tile.
struct TileStart {
  int image;
  int row;
  int column;
  i64 pixel;

  static __device__ TileStart at(const WgmmaArguments& a, i64 pixel) {
    const i64 plane = a.out_height * a.out_width;
    const i64 image = divide(pixel, plane);
    const int position = static_cast<int>(pixel - image * plane);
    const int row = position / static_cast<int>(a.out_width);
    return {static_cast<int>(image), row, position - row * static_cast<int>(a.out_width), pixel};
  }

  __device__ void advance(const WgmmaArguments& a, i64 pixels) {
    pixel += pixels;
    column += static_cast<int>(a.skip_out_columns);
    const int wrapped_column = column >= static_cast<int>(a.out_width);
    column -= wrapped_column ? static_cast<int>(a.out_width) : 0;
    row += static_cast<int>(a.skip_out_rows) + wrapped_column;
    const int wrapped_row = row >= static_cast<int>(a.out_height);
    row -= wrapped_row ? static_cast<int>(a.out_height) : 0;
    image += static_cast<int>(a.skip_images) + wrapped_row;
  }
};

// A row of the tile: where its first tap lies in the patch, counted in rows from the patch's
// first, and where the pixel lies in the output.
struct TileRow {
  int patch_row;
  int row;
  int column;

  static __device__ TileRow at(const WgmmaArguments& a, const TileStart& start, int index) {
    const int column = start.column + index;
    const int rows_down = divide_small(column, a.out_width_inverse);
    const int row = start.row + rows_down;
    const int images_on = divide_small(row, a.out_height_inverse);
    const int row_in_image = row - images_on * static_cast<int>(a.out_height);
    return {images_on * static_cast<int>(a.patch_rows) +
                (row_in_image - start.row) * static_cast<int>(a.step_rows),
            row_in_image, column - rows_down * static_cast<int>(a.out_width)};
  }
};

// The border class of one axis: 0 where all taps are inside, then 1 to cut_first taps cut off at
// the start, then at the end. (The plan takes no shape where both ends are cut.)
__device__ inline int class_of(int start, i64 tap, i64 tap_inverse, i64 taps, i64 size,
                               i64 cut_first) {
  const int step = static_cast<int>(tap);
  const int over = start + (static_cast<int>(taps) - 1) * step - (static_cast<int>(size) - 1);
  if (start < 0) return divide_small(-start + step - 1, tap_inverse);
  if (over <= 0) return 0;
  return static_cast<int>(cut_first) + divide_small(over + step - 1, tap_inverse);
}

// A thread's place in every patch: a column (or every 128th), and every few rows.
struct Lane {
  int row;
  int column;
  int rows;  // from one of its rows to the next

  static __device__ Lane of(const WgmmaArguments& a) {
    const int columns = static_cast<int>(a.patch_columns);
    const int thread = threadIdx.x % kWarpgroup;
    if (columns >= kWarpgroup) return {0, thread, 1};
    const int rows = kWarpgroup / columns;
    const int row = thread / columns;
    return {row < rows ? row : 1 << 30, thread - row * columns, rows};
  }
};

// COPY_WORDS words of one entry of a patch. `source` counts words of the group.
__device__ inline void copy_piece(const WgmmaArguments& a, u32 target, const u32* words, int source,
                                  bool exists, bool inside) {
  if (a.slabs == 1 && !exists) return;  // the patches were clear from the start
  const bool ones = exists && !inside && a.pad_value > 0;
#if MASKED
  // A user's tensor may have anything in the tails, so the words pass through registers.
  u32 value = ones ? ~0u : 0u;
  if (exists && inside) value = *words;
  if (source == static_cast<int>(a.group_words) - 1) value &= tail_mask(a.group_channels);
  store_shared(target, value);
#else
  if (ones) {
#pragma unroll
    for (int i = 0; i < COPY_WORDS; ++i) store_shared(target + 4 * i, ~0u);
  } else {
    copy_async<COPY_WORDS * 4>(target, words, exists && inside);
  }
#endif
}

// The entry of a pixel: its planes, or (WORD_TAPS > 1) the pixel and those that the next taps see.
__device__ inline void copy_entry(const WgmmaArguments& a, u32 target, const u32* words, int column,
                                  bool row_inside, int slab) {
  const int group_words = static_cast<int>(a.group_words);
  const int width = static_cast<int>(a.width);
#pragma unroll
  for (int plane = 0; plane < PLANES; ++plane) {
#pragma unroll
    for (int word = 0; word < kChunkWords; word += COPY_WORDS) {
      const u32 to = target + plane * static_cast<int>(a.plane_bytes) + word * 4;
      if constexpr (WORD_TAPS > 1) {
        constexpr int kTapWords = kChunkWords / WORD_TAPS;
        const int columns = static_cast<int>(a.kernel_columns);
        const int held = plane == 1            ? columns % WORD_TAPS
                         : columns < WORD_TAPS ? columns
                                               : WORD_TAPS;
        const int tap = word / kTapWords;
        const int step = tap * static_cast<int>(a.tap_columns * a.skip_columns);
        const int source = word % kTapWords;
        copy_piece(a, to, words + step * static_cast<int>(a.groups * a.group_words) + source,
                   source, tap < held && source < group_words,
                   row_inside && static_cast<u32>(column + step) < static_cast<u32>(width));
      } else {
        const int source = (slab * PLANES + plane) * kChunkWords + word;
        copy_piece(a, to, words + source, source, source < group_words,
                   row_inside && static_cast<u32>(column) < static_cast<u32>(width));
      }
    }
  }
}

// Rows of the patch of a tile, down to the last that its last pixel reads.
__device__ inline int patch_rows(const WgmmaArguments& a, const TileStart& start) {
  const i64 left = a.batch * a.out_height * a.out_width - start.pixel;
  const int last = left < kTileM ? static_cast<int>(left) - 1 : kTileM - 1;
  return TileRow::at(a, start, last).patch_row + static_cast<int>(a.reach_rows);
}

// This thread's share of a patch.
__device__ inline void load_patch(const WgmmaArguments& a, const TileStart& start, const Lane& lane,
                                  int group, int slab, u32 stage) {
  const int rows = patch_rows(a, start);
  const int columns = static_cast<int>(a.patch_columns);
  const int pixel_words = static_cast<int>(a.groups * a.group_words);
  const int row_words = static_cast<int>(a.width) * pixel_words;
  const u32* image_words =
      a.x + start.image * (a.height * row_words) + static_cast<i64>(group) * a.group_words;
  const int first_row = start.row * static_cast<int>(a.step_rows);
  for (int column = lane.column; column < columns; column += kWarpgroup) {
    const int image_column =
        column * static_cast<int>(a.skip_columns) - static_cast<int>(a.padding_columns);
    u32 target = stage + (lane.row * columns + column) * kChunkBytes;
#pragma unroll 2
    for (int row = lane.row; row < rows; row += lane.rows) {
      const int image = divide_small(first_row + row, a.patch_rows_inverse);
      const int image_row = (first_row + row - image * static_cast<int>(a.patch_rows)) *
                                static_cast<int>(a.skip_rows) -
                            static_cast<int>(a.padding_rows);
      const int offset =
          (image * static_cast<int>(a.height) + image_row) * row_words + image_column * pixel_words;
      copy_entry(a, target, image_words + offset, image_column,
                 static_cast<u32>(image_row) < static_cast<u32>(a.height), slab);
      target += lane.rows * columns * kChunkBytes;
    }
  }
}

// The words of the tile's rows. Rows past the last pixel read the first pixel's.
__device__ inline void describe_rows(const WgmmaArguments& a, const TileStart& start, u32 target) {
  const i64 left = a.batch * a.out_height * a.out_width - start.pixel;
#pragma unroll
  for (int first = 0; first < kTileM; first += kWarpgroup) {
    const int index = first + threadIdx.x % kWarpgroup;
    if (index >= kTileM) break;
    const TileRow row = TileRow::at(a, start, index < left ? index : 0);
    const int entry = row.patch_row * static_cast<int>(a.patch_columns) +
                      row.column * static_cast<int>(a.step_columns);
    int border = 0;
    if (Layout::classes(a) > 1) {
      const int top =
          row.row * static_cast<int>(a.step_rows * a.skip_rows) - static_cast<int>(a.padding_rows);
      const int left_edge = row.column * static_cast<int>(a.step_columns * a.skip_columns) -
                            static_cast<int>(a.padding_columns);
      border =
          class_of(top, a.tap_rows, a.tap_rows_inverse, a.kernel_rows, a.height, a.cut_first_rows) *
              Layout::column_classes(a) +
          class_of(left_edge, a.tap_columns, a.tap_columns_inverse, a.kernel_columns, a.width,
                   a.cut_first_columns);
    }
    store_shared(target + 4 * index, static_cast<u32>(entry) | static_cast<u32>(border) << 16);
  }
}
