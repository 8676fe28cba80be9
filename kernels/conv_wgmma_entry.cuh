// The entry of a pixel in a patch of conv_wgmma or conv_wgmma_in_place: 16 bytes in each plane.
#pragma once

#include "conv_wgmma_tile.cuh"

// COPY_WORDS words of an entry. `source` counts words of the group.
__device__ inline void copy_piece(const WgmmaArguments& a, u32 target, const u32* words, int source,
                                  bool exists, bool inside) {
  const bool ones = PAD_ONES && exists && !inside;
#if MASKED && !IN_PLACE
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

struct EntryCopy {
  int plane_bytes;
  int pixel_words;
  int tap_step;  // columns of the image from one tap to the next
  int width;     // of the image
  int group_words;

  static __device__ EntryCopy of(const WgmmaArguments& a) {
    return {static_cast<int>(a.plane_bytes), static_cast<int>(a.groups * a.group_words),
            static_cast<int>(a.tap_columns * a.skip_columns), static_cast<int>(a.width),
            static_cast<int>(a.group_words)};
  }

  // The planes of a pixel, or (WORD_TAPS > 1) the pixel and those that the next taps see; `column`
  // is the pixel's in the image.
  __device__ void copy(const WgmmaArguments& a, u32 target, const u32* words, int column,
                       bool inside, int slab) const {
#pragma unroll
    for (int plane = 0; plane < PLANES; ++plane) {
#pragma unroll
      for (int word = 0; word < kChunkWords; word += COPY_WORDS) {
        const u32 to = target + plane * plane_bytes + word * 4;
        if constexpr (WORD_TAPS > 1) {
          constexpr int kTapWords = kChunkWords / WORD_TAPS;
          const int tap = word / kTapWords;
          const int source = word % kTapWords;
          if (tap < taps_of(plane)) {
            const int shifted = column + tap * tap_step;
            copy_piece(a, to, words + tap * tap_step * pixel_words + source, source, true,
                       inside && static_cast<u32>(shifted) < static_cast<u32>(width));
          }
        } else {
          const int source = (slab * PLANES + plane) * kChunkWords + word;
          copy_piece(a, to, words + plane * kChunkWords + word, source,
                     !PARTIAL || source < group_words, inside);
        }
      }
    }
  }

 private:
  // Of the last plane those that are left of a kernel row, unless it serves all.
  static constexpr __device__ int taps_of(int plane) {
    const bool whole = plane < PLANES - 1 || (IN_PLACE && kRowPieces > 1);
    return whole ? WORD_TAPS : KERNEL_COLUMNS - (kRowPieces - 1) * WORD_TAPS;
  }
};
