// The output pixels that are worked on together, and what their tiles read.
#pragma once

#include "plan.h"
#include "types.h"

namespace BINOP_PATH {

constexpr i64 kMostStrip = 56;  // a multiple of the tiles of 4, 7 and 8 pixels

// An output pixel: where it reads and writes, and which of its taps count.
struct Pixel {
  const u8* at;  // its first tap
  i64 image;
  i64 index;     // in the image
  i64 position;  // in the output
  const Axis* row;
  const Axis* column;
  i32 taps;        // that count, times channels
  bool corrected;  // its tile reads padding that must not count
};

// The kernel rows that a tile reads: those that count for any of its pixels. Where the tile's first
// pixel stands at the left edge of the image, and the last one at the right edge, and these are the
// only taps of its row that do not count, it skips them: a tenth of the work in rows of 7 pixels.
struct Rows {
  i64 low;
  i64 high;
  bool left;
  bool right;
};

// Everything about the pixels of a strip that its blocks share.
struct Strip {
  Pixel pixel[kMostStrip];
  Rows rows[kMostStrip];  // of each tile
  i64 count;

  Strip(const ConvCall& call, i64 first, i64 pixels) : count(pixels) {
    const ConvPlan& plan = *call.plan;
    const i64 bytes = plan.path->layout.element_bytes;
    const i64 per_image = plan.out_h * plan.out_w;
    i64 image = first / per_image;
    i64 index = first - image * per_image;
    i64 p = index / plan.out_w;
    i64 q = index - p * plan.out_w;
    for (i64 i = 0; i < count; ++i) {
      const Axis& row = plan.rows[p];
      const Axis& column = plan.columns[q];
      const i64 element = image * plan.image_pitch + row.offset + column.offset;
      const i64 taps = (row.high - row.low) * (column.high - column.low) * plan.group_channels;
      const i64 output = call.first_image + image;
      pixel[i] = {static_cast<const u8*>(call.activations) + element * bytes,
                  output,
                  index,
                  output * per_image + index,
                  &row,
                  &column,
                  static_cast<i32>(taps),
                  false};
      ++index;
      if (++q < plan.out_w) continue;
      q = 0;
      if (++p < plan.out_h) continue;
      p = index = 0;
      ++image;
    }
    for (i64 tile = 0; tile * plan.tile < count; ++tile) join_rows(plan, tile);
  }

  void join_rows(const ConvPlan& plan, i64 tile) {
    Pixel* first = pixel + tile * plan.tile;
    const i64 pixels = smaller(plan.tile, count - tile * plan.tile);
    Rows all = {first->row->low, first->row->high, false, false};
    for (i64 i = 1; i < pixels; ++i) {
      all.low = smaller(all.low, first[i].row->low);
      all.high = larger(all.high, first[i].row->high);
    }
    find_edges(plan, first, pixels, all);
    rows[tile] = all;
    if (all.left || all.right) return;  // nothing to correct
    for (i64 i = 0; i < pixels; ++i) {
      first[i].corrected = first[i].row->low != all.low || first[i].row->high != all.high ||
                           first[i].column->high - first[i].column->low != plan.kernel_w;
    }
  }

  static void find_edges(const ConvPlan& plan, const Pixel* first, i64 pixels, Rows& rows) {
    if (!plan.path->layout.skips_edges || plan.runs != 1) return;
    const Pixel& last = first[pixels - 1];
    const bool left = first->column->low == 1;
    const bool right = last.column->high == plan.kernel_w - 1;
    for (i64 i = 0; i < pixels; ++i) {
      const Pixel& pixel = first[i];
      const i64 low = left && i == 0 ? 1 : 0;
      const i64 high = plan.kernel_w - (right && i == pixels - 1 ? 1 : 0);
      if (pixel.row->low != rows.low || pixel.row->high != rows.high) return;
      if (pixel.column->low != low || pixel.column->high != high) return;
    }
    rows.left = left;
    rows.right = right;
  }
};

}  // namespace BINOP_PATH
