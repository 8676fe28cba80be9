// The producers of conv_wgmma: they fill patches with activations, and describe the rows of the
// tile that reads them.
#pragma once

#include "conv_wgmma_border.cuh"
#include "conv_wgmma_entry.cuh"

// The first output pixel of a tile, carried from tile to tile.
struct TileStart {
  int image;
  int row;
  int column;
  i64 pixel;

  // For the first tiles of the blocks: a small number.
  static __device__ TileStart at(const WgmmaArguments& a, int pixel) {
    const int rows = divide_small(pixel, a.out_width_inverse);
    const int image = divide_small(rows, a.out_height_inverse);
    return {image, rows - image * static_cast<int>(a.out_height),
            pixel - rows * static_cast<int>(a.out_width), pixel};
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

  // Pixels from here to the end.
  __device__ i64 left(const WgmmaArguments& a) const {
    return a.batch * a.out_height * a.out_width - pixel;
  }
};

// A row of the tile: where its first tap lies in the patch, counted in rows from the patch's
// first, and where the pixel lies in the output.
struct TileRow {
  int patch_row;
  int images_on;
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
            images_on, row_in_image, column - rows_down * static_cast<int>(a.out_width)};
  }
};

// What a thread needs for its share of every patch: a column (or every 128th) and every few rows.
struct PatchLoader {
  int first_row;
  int first_column;
  int rows_apart;
  int columns;
  EntryCopy entry;
  int row_words;  // of the image
  int height;
  int image_rows;  // of the padded image
  int image_rows_inverse;
  int skip_rows;
  int padding_rows;

  static __device__ PatchLoader of(const WgmmaArguments& a) {
    PatchLoader loader;
    const int thread = threadIdx.x % kWarpgroup;
    loader.columns = static_cast<int>(a.patch_columns);
    const bool wide = loader.columns >= kWarpgroup;
    loader.rows_apart = wide ? 1 : divide_small(kWarpgroup, a.patch_columns_inverse);
    const int row = wide ? 0 : divide_small(thread, a.patch_columns_inverse);
    loader.first_row = row < loader.rows_apart ? row : 1 << 20;  // past every patch
    loader.first_column = wide ? thread : thread - row * loader.columns;
    loader.entry = EntryCopy::of(a);
    loader.row_words = static_cast<int>(a.width) * loader.entry.pixel_words;
    loader.height = static_cast<int>(a.height);
    loader.image_rows = static_cast<int>(a.patch_rows);
    loader.image_rows_inverse = static_cast<int>(a.patch_rows_inverse);
    loader.skip_rows = static_cast<int>(a.skip_rows);
    loader.padding_rows = static_cast<int>(a.padding_rows);
    keep(loader.first_row);
    keep(loader.first_column);
    keep(loader.rows_apart);
    keep(loader.columns);
    keep(loader.entry.pixel_words);
    keep(loader.row_words);
    keep(loader.height);
    keep(loader.image_rows);
    keep(loader.image_rows_inverse);
    keep(loader.skip_rows);
    keep(loader.padding_rows);
    keep(loader.entry.plane_bytes);
    return loader;
  }

  // From a row of the padded stack of images on; `image` points to the group's words of the first
  // image of the stack.
  __device__ void load(const WgmmaArguments& a, const u32* image, int stack_row, int rows, int slab,
                       u32 stage) const {
    for (int column = first_column; column < columns; column += kWarpgroup) {
      const int image_column =
          column * static_cast<int>(a.skip_columns) - static_cast<int>(a.padding_columns);
      const bool column_inside =
          WORD_TAPS > 1 || static_cast<u32>(image_column) < static_cast<u32>(entry.width);
      const u32* words = image + image_column * entry.pixel_words + slab * (PLANES * kChunkWords);
      u32 target = stage + (first_row * columns + column) * kChunkBytes;
#pragma unroll 2
      for (int row = first_row; row < rows; row += rows_apart) {
        const int at = stack_row + row;
        const int images = divide_small(at, image_rows_inverse);
        const int image_row = (at - images * image_rows) * skip_rows - padding_rows;
        const bool inside = column_inside && static_cast<u32>(image_row) < static_cast<u32>(height);
        const int offset = (images * height + image_row) * row_words;
        entry.copy(a, target, words + offset, image_column, inside, slab);
        target += rows_apart * columns * kChunkBytes;
      }
    }
  }
};

// Rows of the patch of a tile, down to the last that its last pixel reads.
__device__ inline int patch_rows_of(const WgmmaArguments& a, const TileStart& start) {
  const i64 left = start.left(a);
  const int last = left < kTileM ? static_cast<int>(left) - 1 : kTileM - 1;
  return TileRow::at(a, start, last).patch_row + static_cast<int>(a.reach_rows);
}

// The words of the tile's rows. Rows past the last pixel read the first pixel's.
__device__ inline void describe_rows(const WgmmaArguments& a, const TileStart& start,
                                     const BorderAxis& rows, const BorderAxis& columns,
                                     u32 target) {
  const i64 left = start.left(a);
#pragma unroll
  for (int first = 0; first < kTileM; first += kWarpgroup) {
    const int index = first + threadIdx.x % kWarpgroup;
    if (kTileM % kWarpgroup != 0 && index >= kTileM) break;
    const TileRow row = TileRow::at(a, start, index < left ? index : 0);
    const int entry = row.patch_row * static_cast<int>(a.patch_columns) +
                      row.column * static_cast<int>(a.step_columns);
    const bool exists = index < left;
    int border = 0;
    if (exists && Layout::classes(a) > 1) {
      border = rows.class_of(row.row) * Layout::column_classes(a) + columns.class_of(row.column);
    }
    const int out_row = (start.image + row.images_on) * static_cast<int>(a.out_height) + row.row;
    const int pixel = exists ? out_row * static_cast<int>(a.out_width) + row.column : -1;
    const u32 words = RowWords::at(target, index);
    store_shared(words, static_cast<u32>(entry) | static_cast<u32>(border) << 16);
    store_shared(words + 4, static_cast<u32>(pixel));
  }
}
