// The filters of a block of conv_wgmma in shared memory, and what its epilogue needs of them.
#pragma once

#include "conv_wgmma_tile.cuh"

// One 16-byte piece of a filter: where it starts in the filter, in words, and how many words of
// it there are.
struct Piece {
  int first;
  int words;

  static __device__ Piece at(const WgmmaArguments& a, int slab, int chunk) {
    const int group_words = static_cast<int>(a.group_words);
    if (chunk >= kUsedChunks) return {0, 0};
    if constexpr (WORD_TAPS > 1) {
      const int columns = static_cast<int>(a.kernel_columns);
      const int chunks = (columns + WORD_TAPS - 1) / WORD_TAPS;  // of a kernel row
      const int row = chunk / chunks;
      const int column = chunk % chunks * WORD_TAPS;
      const int taps = columns - column < WORD_TAPS ? columns - column : WORD_TAPS;
      return {(row * columns + column) * group_words, taps * group_words};
    } else {
      const int word = (slab * PLANES + chunk % PLANES) * kChunkWords;
      const int left = group_words - word;
      return {chunk / PLANES * group_words + word, left < kChunkWords ? left : kChunkWords};
    }
  }
};

// Called by the consumers; the filters are there once all of them have waited for their copies.
__device__ inline void load_filters(const WgmmaArguments& a, const Channels& channels, u32 target) {
  constexpr int kCopies = kChunkWords / COPY_WORDS;
  const i64 filter_words = a.kernel_rows * a.kernel_columns * a.group_words;
  const int chunks = static_cast<int>(a.slabs) * kSlabChunks;
  const u32* weight = a.weight + channels.first * filter_words;
  for (int item = threadIdx.x - kWarpgroup; item < chunks * TILE_N; item += kThreads - kWarpgroup) {
    // Neighbouring threads take neighbouring pieces of one filter.
    const int channel = item / chunks;
    const int chunk = item - channel * chunks;
    const int slab = chunk / kSlabChunks;
    const Piece piece = Piece::at(a, slab, chunk - slab * kSlabChunks);
    const u32 to = target + (chunk * TILE_N + column_of(channel)) * kChunkBytes;
    const u32* from = weight + channel * filter_words + piece.first;
#pragma unroll
    for (int copy = 0; copy < kCopies; ++copy) {
      const int word = copy * COPY_WORDS;
      const bool exists = channel < channels.count && word < piece.words;
#if MASKED
      u32 value = exists ? from[word] : 0u;
      if ((piece.first + word) % static_cast<int>(a.group_words) ==
          static_cast<int>(a.group_words) - 1) {
        value &= tail_mask(a.group_channels);
      }
      store_shared(to + 4 * word, value);
#else
      copy_async<COPY_WORDS * 4>(to + 4 * word, from + word, exists);
#endif
    }
  }
}

// Where the depth's chunks lie in a patch, from the pixel under the first tap, in bytes.
__device__ inline void write_offsets(const WgmmaArguments& a, u32 target) {
  const int chunk = threadIdx.x;
  if (chunk >= kSlabChunks) return;
  const int columns = static_cast<int>(a.kernel_columns);
  int plane, row, column;
  if constexpr (WORD_TAPS > 1) {
    const int chunks = (columns + WORD_TAPS - 1) / WORD_TAPS;
    row = chunk / chunks;
    column = chunk % chunks * WORD_TAPS;
    plane = columns >= WORD_TAPS && column + WORD_TAPS > columns ? 1 : 0;
  } else {
    const int tap = chunk / PLANES;
    plane = chunk % PLANES;
    row = tap / columns;
    column = tap % columns;
  }
  const int pixel = row * static_cast<int>(a.tap_rows * a.patch_columns) +
                    column * static_cast<int>(a.tap_columns);
  const int offset = plane * static_cast<int>(a.plane_bytes) + pixel * kChunkBytes;
  store_shared(target + 4 * chunk, chunk < kUsedChunks ? offset : 0);
}

// Set bits of one tap of a channel's filter.
__device__ inline int tap_bits(const WgmmaArguments& a, const u8* filters, int tap, int column) {
  int set = 0;
  if constexpr (WORD_TAPS > 1) {
    constexpr int kTapWords = kChunkWords / WORD_TAPS;
    const int columns = static_cast<int>(a.kernel_columns);
    const int chunks = (columns + WORD_TAPS - 1) / WORD_TAPS;
    const int chunk = tap / columns * chunks + tap % columns / WORD_TAPS;
    const u32* words =
        reinterpret_cast<const u32*>(filters + (chunk * TILE_N + column) * kChunkBytes);
#pragma unroll
    for (int i = 0; i < kTapWords; ++i) {
      set += __popc(words[tap % columns % WORD_TAPS * kTapWords + i]);
    }
  } else {
    for (int slab = 0; slab < static_cast<int>(a.slabs); ++slab) {
#pragma unroll
      for (int plane = 0; plane < PLANES; ++plane) {
        const int chunk = slab * kSlabChunks + tap * PLANES + plane;
        const uint4 words =
            *reinterpret_cast<const uint4*>(filters + (chunk * TILE_N + column) * kChunkBytes);
        set += __popc(words.x) + __popc(words.y) + __popc(words.z) + __popc(words.w);
      }
    }
  }
  return set;
}

// sum over the taps that a border class leaves of (group_channels - 2 popc(filter at the tap)).
__device__ inline int counted_taps(const WgmmaArguments& a, const int* counted, int border,
                                   int channel) {
  const Cut rows = Cut::of_class(border / Layout::column_classes(a), a.cut_first_rows);
  const Cut columns = Cut::of_class(border % Layout::column_classes(a), a.cut_first_columns);
  const int width = static_cast<int>(a.kernel_columns);
  int sum = 0;
  for (int row = rows.first; row < static_cast<int>(a.kernel_rows) - rows.last; ++row) {
    for (int column = columns.first; column < width - columns.last; ++column) {
      sum += counted[(row * width + column) * TILE_N + channel];
    }
  }
  return sum;
}

// The table's entry for a channel: what remains to be done is one fused multiply-add, exact
// because all numbers are small integers times a power of two (epilogue in conv_wgmma_store.cuh).
template <class Out>
__device__ inline float table_entry(const WgmmaArguments& a, int counted, i64 channel) {
  if constexpr (Channel<Out>::kPacked) {
    // dot >= t  <=>  2 popc(a & b) - popc(a) >= ceil((t - counted) / 2) =: least
    constexpr int kLimit = 1 << 22;  // beyond any |2 popc(a & b) - popc(a)|: the plan's depth
    const int threshold = a.threshold[channel * a.threshold_stride];
    const int clamped = threshold < -4 * kLimit  ? -4 * kLimit
                        : threshold > 4 * kLimit ? 4 * kLimit
                                                 : threshold;
    const int least = (clamped - counted + 1) >> 1;
    return static_cast<float>(-least) * 0x1p-23f;
  } else {
    return static_cast<float>(counted) * 0x1p-24f;
  }
}

// What the output needs of a channel besides the table.
template <class Out>
__device__ inline void write_constants(const WgmmaArguments& a, const Channels& channels,
                                       u8* shared) {
  const int thread = threadIdx.x % kWarpgroup;
  if constexpr (Channel<Out>::kPacked) {
    for (int word = thread; word < TILE_N / kWordBits; word += kWarpgroup) {
      u32 toggle = 0, exists = 0;
      for (int i = 0; i < kWordBits && word * kWordBits + i < channels.count; ++i) {
        const i64 channel = channels.first + word * kWordBits + i;
        exists |= 1u << i;
        // The products' sign says "below"; without a flip that is a clear bit.
        if (!a.flip[channel * a.flip_stride]) toggle |= 1u << i;
      }
      reinterpret_cast<u32*>(shared + Layout::kToggle)[word] = toggle;
      reinterpret_cast<u32*>(shared + Layout::kExists)[word] = exists;
    }
  } else {
    for (int channel = thread; channel < channels.count; channel += kWarpgroup) {
      const Channel<Out> loaded = Channel<Out>::load(a, channels.first + channel);
      reinterpret_cast<float*>(shared + Layout::kAlpha)[channel] = loaded.alpha;
      reinterpret_cast<float*>(shared + Layout::kAddend)[channel] = loaded.addend;
    }
  }
}

// The 128 producers fill the constants of the channels and the table of border classes.
__device__ inline void build_tables(const WgmmaArguments& a, const Channels& channels,
                                    const Layout& layout, u32 base) {
  u8* shared = static_cast<u8*>(__cvta_shared_to_generic(base));
  const int thread = threadIdx.x % kWarpgroup;
  int* counted = reinterpret_cast<int*>(shared + layout.counted);
  const int taps = static_cast<int>(a.kernel_rows * a.kernel_columns);
  for (int item = thread; item < taps * TILE_N; item += kWarpgroup) {
    const int channel = item % TILE_N;
    counted[item] = static_cast<int>(a.group_channels) -
                    2 * tap_bits(a, shared + layout.filters, item / TILE_N, column_of(channel));
  }
  sync_threads<2, kWarpgroup>();

  float* table = reinterpret_cast<float*>(shared + Layout::kTable);
  for (int item = thread; item < Layout::classes(a) * TILE_N; item += kWarpgroup) {
    const int channel = item % TILE_N;
    if (channel < channels.count) {
      table[item] = table_entry<OUT>(a, counted_taps(a, counted, item / TILE_N, channel),
                                     channels.first + channel);
    }
  }
  write_constants<OUT>(a, channels, shared);
}
