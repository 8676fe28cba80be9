// How tiles walk over the images: where a tile begins, and what its rows are.
#pragma once

#include "conv_wgmma_tile.cuh"

// Positions of the walk over one image, and over all.
__device__ inline i64 walk_length(const WgmmaArguments& a) {
  return a.batch * a.walk_rows * a.walk_columns;
}

// The first position of a tile, carried from tile to tile.
struct TileStart {
  int image;
  int row;
  int column;

  static __device__ TileStart at(const WgmmaArguments& a, i64 position) {
    const i64 plane = a.walk_rows * a.walk_columns;
    const i64 image = divide(position, plane);
    const int inside = static_cast<int>(position - image * plane);
    const int row = inside / static_cast<int>(a.walk_columns);
    return {static_cast<int>(image), row, inside - row * static_cast<int>(a.walk_columns)};
  }

  __device__ void advance(const WgmmaArguments& a) {
    column += static_cast<int>(a.skip_walk_columns);
    const int wrapped_column = column >= static_cast<int>(a.walk_columns);
    column -= wrapped_column ? static_cast<int>(a.walk_columns) : 0;
    row += static_cast<int>(a.skip_walk_rows) + wrapped_column;
    const int wrapped_row = row >= static_cast<int>(a.walk_rows);
    row -= wrapped_row ? static_cast<int>(a.walk_rows) : 0;
    image += static_cast<int>(a.skip_images) + wrapped_row;
  }

  // The row of the padded stack of images, from this image's first, where the patch begins.
  __device__ int patch_row(const WgmmaArguments& a) const {
    return LINEAR ? row : row * static_cast<int>(a.step_rows);
  }
};

// The border class of one axis: 0 where all taps are inside, then 1 to cut_first taps cut off at
// the start, then at the end. (The plan takes no shape where both ends are cut.) `over` is how far
// the last tap of the first output lies past the image's end, without padding.
__device__ inline int class_of(int start, int over, i64 tap, i64 tap_inverse, i64 cut_first) {
  const int to_next = static_cast<int>(tap) - 1;
  const int before = start < 0 ? to_next - start : 0;
  const int after = start + over > 0 ? to_next + start + over : 0;
  return after > 0 ? static_cast<int>(cut_first) + divide_small(after, tap_inverse)
                   : divide_small(before, tap_inverse);
}

// A row of the tile.
struct TileRow {
  int entry;   // the patch's pixel under its first tap
  int output;  // the output pixel, from the first of the tile's first image; -1: none
  int border;  // class

  static __device__ TileRow at(const WgmmaArguments& a, const TileStart& start, int index) {
    const int along = start.column + index;
    const int down = divide_small(along, a.walk_columns_inverse);
    const int column = along - down * static_cast<int>(a.walk_columns);
    const int images = divide_small(start.row + down, a.walk_rows_inverse);
    const int row = start.row + down - images * static_cast<int>(a.walk_rows);
    const bool exists = start.image + images < static_cast<int>(a.batch) &&
                        (!LINEAR || (row < static_cast<int>(a.out_height) &&
                                     column < static_cast<int>(a.out_width)));
    TileRow found;
    found.output =
        exists ? (images * static_cast<int>(a.out_height) + row) * static_cast<int>(a.out_width) +
                     column
               : -1;
    if constexpr (LINEAR) {
      found.entry = along;
    } else {
      // A row past the end reads the first pixel's.
      const int patch_row = images * static_cast<int>(a.patch_rows) +
                            (row - start.row) * static_cast<int>(a.step_rows);
      found.entry = exists ? patch_row * static_cast<int>(a.patch_columns) +
                                 column * static_cast<int>(a.step_columns)
                           : 0;
    }
    found.border = 0;
    if (Layout::classes(a) > 1) {
      const int top =
          row * static_cast<int>(a.step_rows * a.skip_rows) - static_cast<int>(a.padding_rows);
      const int left = column * static_cast<int>(a.step_columns * a.skip_columns) -
                       static_cast<int>(a.padding_columns);
      found.border = exists
                         ? class_of(top, static_cast<int>(a.reach_rows - a.height), a.tap_rows,
                                    a.tap_rows_inverse, a.cut_first_rows) *
                                   Layout::column_classes(a) +
                               class_of(left, static_cast<int>(a.reach_columns - a.width),
                                        a.tap_columns, a.tap_columns_inverse, a.cut_first_columns)
                         : 0;
    }
    return found;
  }
};

// Rows of the patch of a tile: down to the last that its last row reads, within the stack.
__device__ inline int patch_rows_of(const WgmmaArguments& a, const TileStart& start) {
  const i64 stack = (a.batch - start.image) * a.patch_rows - start.patch_row(a);
  int rows;
  if constexpr (LINEAR) {
    const int last = start.column + kTileM - 1 + static_cast<int>(a.reach_columns) - 1;
    rows = divide_small(last, a.walk_columns_inverse) + static_cast<int>(a.reach_rows);
  } else {
    const int along = start.column + kTileM - 1;
    const int down = divide_small(along, a.walk_columns_inverse);
    const int images = divide_small(start.row + down, a.walk_rows_inverse);
    const int row = start.row + down - images * static_cast<int>(a.walk_rows);
    rows = images * static_cast<int>(a.patch_rows) +
           (row - start.row) * static_cast<int>(a.step_rows) + static_cast<int>(a.reach_rows);
  }
  return rows < stack ? rows : static_cast<int>(stack);
}
