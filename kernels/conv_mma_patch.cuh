// The patch: the input pixels that a tile's taps touch, brought to shared memory once for all taps.
//
// Chunk planes: [plane][entry][16 bytes]. Rows of the matrix product read entries side by side, so
// that eight of them fill the banks without a permutation, and another tap is another address.
#pragma once

#include "conv_mma_tile.cuh"

// What an entry of the patch is copied from: the number of an input pixel, or kOutside for the
// padding. Each thread finds, copies and counts the entries that are its own.
constexpr u32 kOutside = ~0u;

__device__ inline u32 source_at(const MmaArguments& a, int image, int row, int column) {
  const bool inside = image < static_cast<int>(a.batch) &&
                      static_cast<u32>(row) < static_cast<u32>(a.height) &&
                      static_cast<u32>(column) < static_cast<u32>(a.width);
  const int pixel = (image * static_cast<int>(a.height) + row) * static_cast<int>(a.width) + column;
  return inside ? static_cast<u32>(pixel) : kOutside;
}

__device__ inline u32 source_of_tap(const MmaArguments& a, const Tile& tile, int tap, int output) {
  const int tap_row = divide_by(tap, a.by_kernel_columns);
  const int tap_column = tap - tap_row * static_cast<int>(a.kernel_columns);
  const Place place = tile.place(a, output);
  return source_at(a, place.image,
                   place.row * static_cast<int>(a.stride_rows) - static_cast<int>(a.padding_rows) +
                       tap_row * static_cast<int>(a.dilation_rows),
                   place.column * static_cast<int>(a.stride_columns) -
                       static_cast<int>(a.padding_columns) +
                       tap_column * static_cast<int>(a.dilation_columns));
}

// A pixel of the padded images.
struct Padded {
  int image;
  int row;
  int column;

  static __device__ Padded at(const MmaArguments& a, int first_image, int padded) {
    const int image = divide_by(padded, a.by_padded_plane);
    const int rest = padded - image * static_cast<int>(a.padded_plane);
    const int row = divide_by(rest, a.by_padded_width);
    return {first_image + image, row, rest - row * static_cast<int>(a.padded_width)};
  }

  // By kCopiers pixels.
  __device__ void advance(const MmaArguments& a) {
    const int width = static_cast<int>(a.padded_width);
    column += static_cast<int>(a.thread_columns);
    row += static_cast<int>(a.thread_rows);
    if (column >= width) {
      column -= width;
      ++row;
    }
    for (; row >= static_cast<int>(a.padded_height); ++image) {
      row -= static_cast<int>(a.padded_height);
    }
  }

  __device__ u32 source(const MmaArguments& a) const {
    return source_at(a, image, row - static_cast<int>(a.padding_rows),
                     column - static_cast<int>(a.padding_columns));
  }
};

__device__ inline void find_sources(const MmaArguments& a, const Tile& tile, u32* sources) {
  const int segment_entries = static_cast<int>(a.segment_entries);
#pragma unroll 1
  for (int segment = 0; segment < static_cast<int>(a.segments); ++segment) {
    const int skipped = segment * segment_entries;
    const int last =
        tile.entries - skipped < segment_entries ? tile.entries - skipped : segment_entries;
    int entry = (copier_index() - skipped) & (kCopiers - 1);
    if (a.patch_per_tap) {
#pragma unroll 1
      for (; entry < last; entry += kCopiers) {
        sources[skipped + entry] = source_of_tap(a, tile, segment, entry);
      }
    } else {
      Padded padded = Padded::at(a, tile.image,
                                 tile.padded + segment * static_cast<int>(a.segment_step) + entry);
#pragma unroll 1
      for (; entry < last; entry += kCopiers) {
        sources[skipped + entry] = padded.source(a);
        padded.advance(a);
      }
    }
  }
}

// Up to four words, one or two at a time.
__device__ inline void copy_words(u32 target, const u32* words, int count, int width, bool inside) {
#pragma unroll 1
  for (int w = 0; w < kChunkWords && w < count; w += width) {
    if (width == 2) {
      copy_async<8>(target + 4 * w, words + w, inside);
    } else {
      copy_async<4>(target + 4 * w, words + w, inside);
    }
  }
}

// An entry of less than whole chunks. Words past a pixel's last stay as they are: the filters are
// zero there.
__device__ inline void copy_part(const MmaArguments& a, const u32* words, int entry, int skipped,
                                 u32 to, u32 plane_bytes, bool inside) {
  const int group_words = static_cast<int>(a.group_words);
  const int width = static_cast<int>(a.copy_words);
  if (a.fold == 1) {
    const int end = skipped + static_cast<int>(a.stage_planes) * kChunkWords;
#pragma unroll 1
    for (; skipped < end; skipped += kChunkWords, words += kChunkWords, to += plane_bytes) {
      copy_words(to, words, group_words - skipped, width, inside);
    }
    return;
  }
  // The pixel is also the neighbour of those before it, as the tap to their right.
  const int apart = static_cast<int>(a.tap_columns_apart);
#pragma unroll 1
  for (int f = 0; f < static_cast<int>(a.fold) && entry - f * apart >= 0; ++f) {
    copy_words(to, words, group_words, width, inside);
    to += group_words * 4 - apart * kChunkBytes;
  }
}

// (Functions: in a kernel's lambda NVRTC 13.0 takes no parameter of type auto.)
template <class Copy>
__device__ inline void copy_entries(const MmaArguments& a, int tile_entries, const u32* sources,
                                    const u32* first_word, u32 target, Copy copy) {
  int entry = copier_index();
  u32 next = entry < tile_entries ? sources[entry] : kOutside;
#pragma unroll 1
  for (; entry < tile_entries; entry += kCopiers) {
    const u32 pixel = next;
    next = entry + kCopiers < tile_entries ? sources[entry + kCopiers] : kOutside;
    const bool inside = pixel != kOutside;
    // As unsigned numbers of 32 bits: a single instruction.
    const u32* words =
        first_word + static_cast<u64>(inside ? pixel : 0u) * static_cast<u32>(a.pixel_words);
    copy(words, entry, target + entry * kChunkBytes, inside);
  }
}

__device__ inline void load_patch(const MmaArguments& a, int tile_entries, const u32* sources,
                                  int group, int stage, u32 target) {
  const u32 plane_bytes = static_cast<int>(a.segment_entries * a.segments) * kChunkBytes;
  const int planes = static_cast<int>(a.stage_planes);
  const int skipped = stage * planes * kChunkWords;
  const u32* first_word = a.x + group * static_cast<int>(a.group_words) + skipped;
  if (a.copy_words == kChunkWords) {
    const auto copy = [&](const u32* words, int, u32 to, bool inside) {
#pragma unroll 2
      for (int plane = 0; plane < planes; ++plane, words += kChunkWords, to += plane_bytes) {
        copy_async<16>(to, words, inside);
      }
    };
    copy_entries(a, tile_entries, sources, first_word, target, copy);
  } else {
    const auto copy = [&](const u32* words, int entry, u32 to, bool inside) {
      copy_part(a, words, entry, skipped, to, plane_bytes, inside);
    };
    copy_entries(a, tile_entries, sources, first_word, target, copy);
  }
}

// A thread counts two entries at a time, so that neither waits for the other's loads; where there
// is no second one, the first twice.
template <class Count>
__device__ inline void count_entries(const MmaArguments& a, int tile_entries, int stage,
                                     const u8* patch, int* set_bits, Count count) {
  const int entries = static_cast<int>(a.segment_entries * a.segments);
  const int planes = static_cast<int>(a.stage_planes);
#pragma unroll 1
  for (int entry = copier_index(); entry < tile_entries; entry += 2 * kCopiers) {
    const int apart = entry + kCopiers < tile_entries ? kCopiers : 0;
    const uint4* chunk = reinterpret_cast<const uint4*>(patch) + entry;
    int first = stage == 0 ? 0 : set_bits[entry];
    int second = stage == 0 ? 0 : set_bits[entry + apart];
#pragma unroll 1
    for (int plane = 0; plane < planes; ++plane, chunk += entries) {
      const int of_first = count(chunk, plane);
      second += count(chunk + apart, plane);
      first += of_first;
    }
    set_bits[entry] = first;
    set_bits[entry + apart] = second;
  }
}

// Adds up popc of every entry over the stages. (Of a pixel with fewer words than a chunk only these
// are read: others may still be on their way, copied by other threads. Tail bits that a user's
// tensor has set do not count, and meet zeros in the filters.)
__device__ inline void count_set_bits(const MmaArguments& a, int tile_entries, int stage,
                                      const u8* patch, int* set_bits) {
  if (a.group_channels % (kChunkWords * kWordBits) == 0) {
    const auto count = [](const uint4* chunk, int) {
      return __popc(chunk->x) + __popc(chunk->y) + __popc(chunk->z) + __popc(chunk->w);
    };
    count_entries(a, tile_entries, stage, patch, set_bits, count);
  } else {
    const int skipped = stage * static_cast<int>(a.stage_planes) * kChunkWords;
    const int left = static_cast<int>(a.group_words) - skipped;
    const u32 last_mask = tail_mask(a.group_channels);
    const auto count = [=](const uint4* chunk, int plane) {
      const u32* words = reinterpret_cast<const u32*>(chunk);
      const int last = left - plane * kChunkWords - 1;
      int set = 0;
#pragma unroll
      for (int word = 0; word < kChunkWords; ++word) {
        if (word <= last) set += __popc(words[word] & (word == last ? last_mask : ~0u));
      }
      return set;
    };
    count_entries(a, tile_entries, stage, patch, set_bits, count);
  }
}
