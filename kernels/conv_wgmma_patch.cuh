// The producers of conv_wgmma: they fill patches with activations, and count their bits.
#pragma once

#include "conv_wgmma_walk.cuh"

// COPY_WORDS words of one entry of a patch. `source` counts words of the group.
__device__ inline void copy_piece(const WgmmaArguments& a, u32 target, const u32* words, int source,
                                  bool exists, bool inside) {
  const bool ones = PAD_ONES && exists && !inside;
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

// What a thread needs for its share of every patch: a column (or every 128th) and every few rows.
struct PatchLoader {
  int first_row;
  int first_column;
  int rows_apart;
  int columns;
  int pixel_words;
  int row_words;  // of the image
  int height;
  int width;
  int image_rows;  // of the padded image
  int image_rows_inverse;
  int skip_rows;
  int padding_rows;
  int plane_bytes;
  int tap_step;  // columns of the image from one tap to the next
  int group_words;

  static __device__ PatchLoader of(const WgmmaArguments& a) {
    PatchLoader loader;
    const int thread = threadIdx.x % kWarpgroup;
    loader.columns = static_cast<int>(a.patch_columns);
    const bool wide = loader.columns >= kWarpgroup;
    loader.rows_apart = wide ? 1 : kWarpgroup / loader.columns;
    const int row = wide ? 0 : thread / loader.columns;
    loader.first_row = row < loader.rows_apart ? row : 1 << 20;  // past every patch
    loader.first_column = wide ? thread : thread - row * loader.columns;
    loader.pixel_words = static_cast<int>(a.groups * a.group_words);
    loader.row_words = static_cast<int>(a.width) * loader.pixel_words;
    loader.height = static_cast<int>(a.height);
    loader.width = static_cast<int>(a.width);
    loader.image_rows = static_cast<int>(a.patch_rows);
    loader.image_rows_inverse = static_cast<int>(a.patch_rows_inverse);
    loader.skip_rows = static_cast<int>(a.skip_rows);
    loader.padding_rows = static_cast<int>(a.padding_rows);
    loader.plane_bytes = static_cast<int>(a.plane_bytes);
    loader.tap_step = static_cast<int>(a.tap_columns * a.skip_columns);
    loader.group_words = static_cast<int>(a.group_words);
    keep(loader.first_row);
    keep(loader.first_column);
    keep(loader.rows_apart);
    keep(loader.columns);
    keep(loader.pixel_words);
    keep(loader.row_words);
    keep(loader.height);
    keep(loader.image_rows);
    keep(loader.image_rows_inverse);
    keep(loader.skip_rows);
    keep(loader.padding_rows);
    keep(loader.plane_bytes);
    return loader;
  }

  // The entry of a pixel: its planes, or (WORD_TAPS > 1) the pixel and those that the next taps
  // see. What no copy reaches is clear from the start.
  __device__ void copy_entry(const WgmmaArguments& a, u32 target, const u32* words, int column,
                             bool row_inside, int slab) const {
#pragma unroll
    for (int plane = 0; plane < PLANES; ++plane) {
#pragma unroll
      for (int word = 0; word < kChunkWords; word += COPY_WORDS) {
        const u32 to = target + plane * plane_bytes + word * 4;
        if constexpr (WORD_TAPS > 1) {
          constexpr int kTapWords = kChunkWords / WORD_TAPS;
          const int held =
              plane == PLANES - 1 ? KERNEL_COLUMNS - (kRowPieces - 1) * WORD_TAPS : WORD_TAPS;
          const int tap = word / kTapWords;
          const int source = word % kTapWords;
          if (tap < held) {
            const int shifted = column + tap * tap_step;
            copy_piece(a, to, words + tap * tap_step * pixel_words + source, source, true,
                       row_inside && static_cast<u32>(shifted) < static_cast<u32>(width));
          }
        } else {
          const int source = (slab * PLANES + plane) * kChunkWords + word;
          copy_piece(a, to, words + plane * kChunkWords + word, source,
                     !PARTIAL || source < group_words, row_inside);
        }
      }
    }
  }

  // From a row of the padded stack of images on; `image` points to the group's words of the first
  // image of the stack.
  __device__ void load(const WgmmaArguments& a, const u32* image, int stack_row, int rows, int slab,
                       u32 stage) const {
    for (int column = first_column; column < columns; column += kWarpgroup) {
      const int image_column =
          column * static_cast<int>(a.skip_columns) - static_cast<int>(a.padding_columns);
      const bool column_inside =
          WORD_TAPS > 1 || static_cast<u32>(image_column) < static_cast<u32>(width);
      const u32* words = image + image_column * pixel_words + slab * (PLANES * kChunkWords);
      u32 target = stage + (first_row * columns + column) * kChunkBytes;
#pragma unroll 2
      for (int row = first_row; row < rows; row += rows_apart) {
        const int at = stack_row + row;
        const int images = divide_small(at, image_rows_inverse);
        const int image_row = (at - images * image_rows) * skip_rows - padding_rows;
        const bool inside = column_inside && static_cast<u32>(image_row) < static_cast<u32>(height);
        const int offset = (images * height + image_row) * row_words;
        copy_entry(a, target, words + offset, image_column, inside, slab);
        target += rows_apart * columns * kChunkBytes;
      }
    }
  }

  // Of the entries that this thread copied, once its copies have arrived.
  __device__ void count_bits(int rows, u32 stage) const {
    constexpr int kWords = WORD_TAPS > 1 ? kChunkWords / WORD_TAPS : kChunkWords;
    for (int column = first_column; column < columns; column += kWarpgroup) {
#pragma unroll 2
      for (int row = first_row; row < rows; row += rows_apart) {
        const int entry = row * columns + column;
        int set = 0;
#pragma unroll
        for (int plane = 0; plane < (WORD_TAPS > 1 ? 1 : PLANES); ++plane) {
          u32 words[4];
          load_shared(words, stage + plane * plane_bytes + entry * kChunkBytes);
#pragma unroll
          for (int i = 0; i < kWords; ++i) set += __popc(words[i]);
        }
        store_shared(stage + PLANES * plane_bytes + 4 * entry, set);
      }
    }
  }
};
