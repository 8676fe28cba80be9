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

// Taps of one axis cut off by the border, as a class (Cut::of_class).
__device__ inline int class_of(int start, i64 tap, i64 taps, i64 size, i64 cut_first) {
  const int step = static_cast<int>(tap);
  const int before = start < 0 ? (-start + step - 1) / step : 0;
  const int over = start + (static_cast<int>(taps) - 1) * step - (static_cast<int>(size) - 1);
  const int after = over > 0 ? (over + step - 1) / step : 0;
  return before > 0 ? before : after > 0 ? static_cast<int>(cut_first) + after : 0;
}

// Columns of a patch's pixel that its entry in a plane holds, and the words of each.
struct Entry {
  const u32* words;  // of the patch's pixel; not in the image in the padding
  int column;        // of the image
  bool row_inside;
};

// One copy of an entry: COPY_WORDS words from `word` on.
__device__ inline void copy_piece(const WgmmaArguments& a, const Entry& entry, u32 target, int slab,
                                  int plane, int word) {
  const int group_words = static_cast<int>(a.group_words);
  int pixel = 0;  // of the entry, where several share it
  int source = (slab * PLANES + plane) * kChunkWords + word;
  bool exists = source < group_words;
  if constexpr (WORD_TAPS > 1) {
    constexpr int kTapWords = kChunkWords / WORD_TAPS;
    const int columns = static_cast<int>(a.kernel_columns);
    const int held = plane == 1 ? columns % WORD_TAPS : columns < WORD_TAPS ? columns : WORD_TAPS;
    pixel = word / kTapWords;
    source = word % kTapWords;
    exists = pixel < held && source < group_words;
  }
  const int step = static_cast<int>(a.tap_columns) * static_cast<int>(a.skip_columns) * pixel;
  const bool inside = exists && entry.row_inside &&
                      static_cast<u32>(entry.column + step) < static_cast<u32>(a.width);
  const u32* words = entry.words + step * static_cast<int>(a.groups) * group_words + source;
  const bool ones = exists && !inside && a.pad_value > 0;
#if MASKED
  // A user's tensor may have anything in the tails, so the words pass through registers.
  u32 value = ones ? ~0u : 0u;
  if (inside) value = *words;
  if (source == group_words - 1) value &= tail_mask(a.group_channels);
  store_shared(target, value);
#else
  if (ones) {
#pragma unroll
    for (int i = 0; i < COPY_WORDS; ++i) store_shared(target + 4 * i, ~0u);
  } else {
    copy_async<COPY_WORDS * 4>(target, words, inside);
  }
#endif
}

// Pixels of the patch of a tile: whole rows, down to the last that its last pixel reads.
__device__ inline int patch_pixels(const WgmmaArguments& a, const TileStart& start) {
  const i64 left = a.batch * a.out_height * a.out_width - start.pixel;
  const int last = left < kTileM ? static_cast<int>(left) - 1 : kTileM - 1;
  const TileRow row = TileRow::at(a, start, last);
  return (row.patch_row + static_cast<int>(a.reach_rows)) * static_cast<int>(a.patch_columns);
}

// This thread's share of a patch: every 128th pixel.
__device__ inline void load_patch(const WgmmaArguments& a, const TileStart& start, int group,
                                  int slab, u32 stage) {
  const int pixels = patch_pixels(a, start);
  const i64 pixel_words = a.groups * a.group_words;
  const u32* image_words = a.x + (start.image * a.height * a.width) * pixel_words +
                           static_cast<i64>(group) * a.group_words;
  const int first_row = start.row * static_cast<int>(a.step_rows);
  for (int i = threadIdx.x % kWarpgroup; i < pixels; i += kWarpgroup) {
    const int down = divide_small(i, a.patch_columns_inverse);
    const int virtual_row = first_row + down;
    const int image = divide_small(virtual_row, a.patch_rows_inverse);
    const int row =
        (virtual_row - image * static_cast<int>(a.patch_rows)) * static_cast<int>(a.skip_rows) -
        static_cast<int>(a.padding_rows);
    const int column =
        (i - down * static_cast<int>(a.patch_columns)) * static_cast<int>(a.skip_columns) -
        static_cast<int>(a.padding_columns);
    const int offset =
        ((image * static_cast<int>(a.height) + row) * static_cast<int>(a.width) + column) *
        static_cast<int>(pixel_words);
    const Entry entry = {image_words + offset, column,
                         static_cast<u32>(row) < static_cast<u32>(a.height)};
    const u32 target = stage + i * kChunkBytes;
#pragma unroll
    for (int plane = 0; plane < PLANES; ++plane) {
#pragma unroll
      for (int word = 0; word < kChunkWords; word += COPY_WORDS) {
        copy_piece(a, entry, target + plane * static_cast<int>(a.plane_bytes) + word * 4, slab,
                   plane, word);
      }
    }
  }
}

// Threads 0 to 63 write the words of the rows. Rows past the last pixel read the first pixel's.
__device__ inline void describe_rows(const WgmmaArguments& a, const TileStart& start, u32 target) {
  const int index = threadIdx.x % kWarpgroup;
  if (index >= kTileM) return;
  const bool exists = start.pixel + index < a.batch * a.out_height * a.out_width;
  const TileRow row = TileRow::at(a, start, exists ? index : 0);
  const int entry = row.patch_row * static_cast<int>(a.patch_columns) +
                    row.column * static_cast<int>(a.step_columns);
  int border = 0;
  if (a.cut_first_rows + a.cut_last_rows + a.cut_first_columns + a.cut_last_columns > 0) {
    const int top =
        row.row * static_cast<int>(a.step_rows * a.skip_rows) - static_cast<int>(a.padding_rows);
    const int left = row.column * static_cast<int>(a.step_columns * a.skip_columns) -
                     static_cast<int>(a.padding_columns);
    border = class_of(top, a.tap_rows, a.kernel_rows, a.height, a.cut_first_rows) *
                 Layout::column_classes(a) +
             class_of(left, a.tap_columns, a.kernel_columns, a.width, a.cut_first_columns);
  }
  store_shared(target + 4 * index, static_cast<u32>(entry) | static_cast<u32>(border) << 16);
}
