// The patch: the input pixels that a tile's taps touch, brought to shared memory once for all taps.
//
// Chunk planes: [plane][entry][16 bytes]. Rows of the matrix product read entries side by side, so
// that eight of them fill the banks without a permutation, and another tap is another address.
#pragma once

#include "conv_mma_tile.cuh"

// An input pixel, or a place in the padding.
struct Source {
  const u32* words;  // of the block's group; only to be read if inside
  bool inside;

  static __device__ Source at(const MmaArguments& a, int group, int image, int row, int column) {
    const bool inside = image < static_cast<int>(a.batch) &&
                        static_cast<u32>(row) < static_cast<u32>(a.height) &&
                        static_cast<u32>(column) < static_cast<u32>(a.width);
    const int pixel =
        (image * static_cast<int>(a.height) + row) * static_cast<int>(a.width) + column;
    // Of two 32-bit numbers: a single instruction.
    const i64 skipped = static_cast<i64>(inside ? pixel : 0) * static_cast<int>(a.pixel_words);
    return {a.x + skipped + group * static_cast<int>(a.group_words), inside};
  }

  static __device__ Source of_entry(const MmaArguments& a, const Tile& tile, int group, int segment,
                                    int entry) {
    if (a.patch_per_tap) {
      const int tap_row = segment / static_cast<int>(a.kernel_columns);
      const int tap_column = segment - tap_row * static_cast<int>(a.kernel_columns);
      const Place place = tile.place(a, entry);
      return at(a, group, place.image,
                place.row * static_cast<int>(a.stride_rows) - static_cast<int>(a.padding_rows) +
                    tap_row * static_cast<int>(a.dilation_rows),
                place.column * static_cast<int>(a.stride_columns) -
                    static_cast<int>(a.padding_columns) +
                    tap_column * static_cast<int>(a.dilation_columns));
    }
    const int padded = tile.padded + segment * static_cast<int>(a.segment_step) + entry;
    const int image = divide_by(padded, a.by_padded_plane);
    const int rest = padded - image * static_cast<int>(a.padded_plane);
    const int row = divide_by(rest, a.by_padded_width);
    return at(a, group, tile.image + image, row - static_cast<int>(a.padding_rows),
              rest - row * static_cast<int>(a.padded_width) - static_cast<int>(a.padding_columns));
  }
};

// Up to four words.
__device__ inline void copy_words(u32 target, const u32* words, int count, int width, bool inside) {
  if (width == 4) {
    copy_async<16>(target, words, inside);
  } else if (width == 2) {
#pragma unroll
    for (int w = 0; w < kChunkWords; w += 2) {
      if (w < count) copy_async<8>(target + 4 * w, words + w, inside);
    }
  } else {
#pragma unroll
    for (int w = 0; w < kChunkWords; ++w) {
      if (w < count) copy_async<4>(target + 4 * w, words + w, inside);
    }
  }
}

// Words past a pixel's last stay as they are: the filters are zero there.
__device__ inline void load_patch(const MmaArguments& a, const Tile& tile, int group, int stage,
                                  u32 target) {
  const int entries = static_cast<int>(a.segment_entries);
  const int all_entries = entries * static_cast<int>(a.segments);
  const int planes = static_cast<int>(a.stage_planes);
  const int fold = static_cast<int>(a.fold);
  const int width = static_cast<int>(a.copy_words);
  const int group_words = static_cast<int>(a.group_words);
  for (int segment = 0; segment < static_cast<int>(a.segments); ++segment) {
#pragma unroll 1
    for (int entry = static_cast<int>(threadIdx.x); entry < tile.entries; entry += kThreads) {
      const Source source = Source::of_entry(a, tile, group, segment, entry);
      const u32 entry_at = target + (segment * entries + entry) * kChunkBytes;
      if (fold == 1) {
#pragma unroll 1
        for (int plane = 0; plane < planes; ++plane) {
          const int skipped = (stage * planes + plane) * kChunkWords;
          copy_words(entry_at + plane * all_entries * kChunkBytes, source.words + skipped,
                     group_words - skipped, width, source.inside);
        }
      } else {
        // The pixel is also the neighbour of those before it, as the tap to their right.
        const int apart = static_cast<int>(a.tap_columns_apart);
#pragma unroll 1
        for (int f = 0; f < fold && entry - f * apart >= 0; ++f) {
          copy_words(entry_at - f * apart * kChunkBytes + f * group_words * 4, source.words,
                     group_words, width, source.inside);
        }
      }
    }
  }
}

// Adds up popc of every entry over the stages. Each thread counts the same entries in each stage.
// Tail bits that a user's tensor has set do not count, and meet zeros in the filters.
__device__ inline void count_set_bits(const MmaArguments& a, const Tile& tile, int stage,
                                      const u8* patch, int* set_bits) {
  const int entries = static_cast<int>(a.segment_entries * a.segments);
  const int planes = static_cast<int>(a.stage_planes);
  const int group_words = static_cast<int>(a.group_words);
  const int last_entry = entries - static_cast<int>(a.segment_entries) + tile.entries;
  const u32 last = tail_mask(a.group_channels);
#pragma unroll 1
  for (int plane = 0; plane < planes; ++plane) {
    const int left = group_words - (stage * planes + plane) * kChunkWords;
    u32 masks[kChunkWords];
#pragma unroll
    for (int w = 0; w < kChunkWords; ++w) masks[w] = left > w + 1 ? ~0u : left == w + 1 ? last : 0u;
    const uint4* chunks = reinterpret_cast<const uint4*>(patch) + plane * entries;
#pragma unroll 1
    for (int entry = static_cast<int>(threadIdx.x); entry < last_entry; entry += kThreads) {
      const uint4 chunk = chunks[entry];
      const int set = __popc(chunk.x & masks[0]) + __popc(chunk.y & masks[1]) +
                      __popc(chunk.z & masks[2]) + __popc(chunk.w & masks[3]);
      set_bits[entry] = set + (stage + plane == 0 ? 0 : set_bits[entry]);
    }
  }
}
