// The filters of a block of conv_wgmma in shared memory, and what its epilogue needs of them.
#pragma once

#include "conv_wgmma_tile.cuh"

// Where a chunk of depth stands in a filter: stepped through without divisions.
struct ChunkSource {
  int chunk;     // of the slab
  int plane;     // WORD_TAPS 1
  int word;      // of the filter
  int existing;  // words from there on that the chunk takes

  // The `chunk`-th of the slab, 0 or 1.
  static __device__ ChunkSource at(const WgmmaArguments& a, int slab, int chunk) {
    ChunkSource source = {0, 0, WORD_TAPS > 1 ? 0 : slab * PLANES * kChunkWords, 0};
    source.set_existing(a, slab);
    if (chunk == 1) source.step(a, slab);
    return source;
  }

  __device__ void set_existing(const WgmmaArguments& a, int slab) {
    const int group_words = static_cast<int>(a.group_words);
    if constexpr (WORD_TAPS > 1) {
      const int column = chunk % kRowPieces * WORD_TAPS;
      const int left = KERNEL_COLUMNS - column;
      existing = (left < WORD_TAPS ? left : WORD_TAPS) * group_words;
    } else {
      existing = PARTIAL ? group_words - (slab * PLANES + plane) * kChunkWords : kChunkWords;
    }
    if (chunk >= kUsedChunks) existing = 0;
  }

  __device__ void step(const WgmmaArguments& a, int slab) {
    const int group_words = static_cast<int>(a.group_words);
    ++chunk;
    if constexpr (WORD_TAPS > 1) {
      word += existing;
    } else {
      ++plane;
      word += kChunkWords;
      if (plane == PLANES) {
        plane = 0;
        word += group_words - PLANES * kChunkWords;
      }
    }
    set_existing(a, slab);
  }
};

// One 16-byte piece of a filter; words from `existing` on are clear.
__device__ inline void copy_filter_piece(const WgmmaArguments& a, u32 target, const u32* filter,
                                         int first_word, int existing) {
#pragma unroll
  for (int word = 0; word < kChunkWords; word += COPY_WORDS) {
#if MASKED
    const int group_words = static_cast<int>(a.group_words);
    u32 value = word < existing ? filter[first_word + word] : 0u;
    if ((first_word + word) % group_words == group_words - 1) value &= tail_mask(a.group_channels);
    store_shared(target + 4 * word, value);
#else
    copy_async<COPY_WORDS * 4>(target + 4 * word, filter + first_word + word, word < existing);
#endif
  }
}

// Barriers of the block (0 is that of __syncthreads).
constexpr int kFiltersForProducers = 1;
constexpr int kFiltersForConsumers = 2;

// The consumers load the filters. The producers, who count their bits, do not keep them waiting.
__device__ inline void tell_producers() { arrive_at_barrier<kFiltersForProducers, kThreads>(); }

__device__ inline void wait_for_filters() { sync_threads<kFiltersForProducers, kThreads>(); }

// Called by the consumers; the filters are there once all of them have waited for their copies.
// A warp copies two chunks of 16 filters at a time: whole sectors of memory, and few conflicts
// between banks.
__device__ inline void load_filters(const WgmmaArguments& a, const Channels& channels, u32 target) {
  constexpr int kWarps = 4 * CONSUMERS;
  constexpr int kBlocks = TILE_N / 16;
  constexpr int kWarpsPerBlock = kWarps > kBlocks ? kWarps / kBlocks : 1;
  const int warp = static_cast<int>(threadIdx.x) / 32 - 4;
  const int lane = threadIdx.x % 32;
  const int group_words = static_cast<int>(a.group_words);
  for (int block = warp % kBlocks; block < kBlocks && warp / kBlocks < kWarpsPerBlock;
       block += kWarps) {
    const int channel = block * 16 + lane % 16;
    const bool exists = channel < channels.count;
    const u32* filter =
        a.weight + static_cast<i64>(channels.first + channel) * (kTaps * group_words);
    u32 to = target + column_of(channel) * kChunkBytes;
    for (int slab = 0; slab < static_cast<int>(a.slabs); ++slab) {
      ChunkSource source = ChunkSource::at(a, slab, lane / 16);
      u32 target_chunk = to + lane / 16 * kFilterChunkBytes;
      // Several copies in flight: one after the other, each would wait for its own address.
#pragma unroll 3
      for (int pair = 0; pair < kSteps; ++pair) {
        if (pair % kWarpsPerBlock == warp / kBlocks) {
          copy_filter_piece(a, target_chunk, filter, source.word, exists ? source.existing : 0);
        }
        source.step(a, slab);
        source.step(a, slab);
        target_chunk += 2 * kFilterChunkBytes;
      }
      to += kSlabChunks * kFilterChunkBytes;
    }
  }
}

// Where the depth's chunks lie in a patch, from the pixel under the first tap, in bytes.
__device__ inline void write_offsets(const WgmmaArguments& a, u32 target) {
  const int index = threadIdx.x;
  if (index >= kSlabChunks) return;
  // A chunk that is not used has no filter bits; it is read where the one before it is.
  const int chunk = index < kUsedChunks ? index : kUsedChunks - 1;
  int plane, row, column;
  if constexpr (WORD_TAPS > 1) {
    row = chunk / kRowPieces;
    column = chunk % kRowPieces * WORD_TAPS;
    plane = chunk % kRowPieces == kRowPieces - 1 ? PLANES - 1 : 0;
  } else {
    const int tap = chunk / PLANES;
    plane = chunk % PLANES;
    row = tap / KERNEL_COLUMNS;
    column = tap % KERNEL_COLUMNS;
  }
  const int pixel = row * static_cast<int>(a.tap_rows * a.patch_columns) +
                    column * static_cast<int>(a.tap_columns);
  const int offset = plane * static_cast<int>(a.plane_bytes) + pixel * kChunkBytes;
  store_shared(target + 4 * index, offset);
}

// Set bits of one tap of the filter in a column.
__device__ inline int tap_bits(const WgmmaArguments& a, const u8* filters, int row, int column,
                               int filter) {
  int set = 0;
  if constexpr (WORD_TAPS > 1) {
    constexpr int kTapWords = kChunkWords / WORD_TAPS;
    const int chunk = row * kRowPieces + column / WORD_TAPS;
    const u32* words =
        reinterpret_cast<const u32*>(filters + (chunk * TILE_N + filter) * kChunkBytes) +
        column % WORD_TAPS * kTapWords;
#pragma unroll
    for (int i = 0; i < kTapWords; ++i) set += __popc(words[i]);
  } else {
    const int tap = row * KERNEL_COLUMNS + column;
    for (int slab = 0; slab < static_cast<int>(a.slabs); ++slab) {
#pragma unroll
      for (int plane = 0; plane < PLANES; ++plane) {
        const int chunk = slab * kSlabChunks + tap * PLANES + plane;
        const uint4 words =
            *reinterpret_cast<const uint4*>(filters + (chunk * TILE_N + filter) * kChunkBytes);
        set += __popc(words.x) + __popc(words.y) + __popc(words.z) + __popc(words.w);
      }
    }
  }
  return set;
}

// Per tap (group_channels - 2 popc(filter)), summed over the taps above and to the left of one.
struct CountedTaps {
  int* sums;  // [KERNEL_ROWS][KERNEL_COLUMNS][TILE_N], of this thread's channel

  __device__ int before(int row, int column) const {
    const int tap = (row - 1) * KERNEL_COLUMNS + column - 1;
    return row > 0 && column > 0 ? sums[tap * TILE_N] : 0;
  }

  __device__ void count(const WgmmaArguments& a, const u8* filters, int filter) const {
#pragma unroll 1
    for (int row = 0; row < KERNEL_ROWS; ++row) {
      int sum = 0;
#pragma unroll 1
      for (int column = 0; column < KERNEL_COLUMNS; ++column) {
        sum += static_cast<int>(a.group_channels) - 2 * tap_bits(a, filters, row, column, filter);
        sums[(row * KERNEL_COLUMNS + column) * TILE_N] = sum + before(row, column + 1);
      }
    }
  }

  // Of the taps that a pair of border classes leaves (BorderAxis::class_of).
  __device__ int left_by(const WgmmaArguments& a, int row_class, int column_class) const {
    const int rows_first = static_cast<int>(a.cut_first_rows);
    const int columns_first = static_cast<int>(a.cut_first_columns);
    const int top = row_class <= rows_first ? row_class : 0;
    const int bottom = KERNEL_ROWS - (row_class > rows_first ? row_class - rows_first : 0);
    const int left = column_class <= columns_first ? column_class : 0;
    const int right =
        KERNEL_COLUMNS - (column_class > columns_first ? column_class - columns_first : 0);
    return before(bottom, right) - before(top, right) - before(bottom, left) + before(top, left);
  }
};

// What is left to do with a sum of popc(a & b) is one fused multiply-add with the table's entry,
// exact because all numbers are small integers times a power of two (conv_wgmma_store.cuh).
template <class Out>
__device__ inline float table_entry(int counted, int threshold) {
  if constexpr (Channel<Out>::kPacked) {
    // dot >= t  <=>  2 popc(a & b) - popc(a) >= ceil((t - counted) / 2)
    return static_cast<float>(-((threshold - counted + 1) >> 1)) * 0x1p-23f;
  } else {
    return static_cast<float>(counted) * 0x1p-24f;
  }
}

// The constants of a channel go to shared memory; the threshold of a packed output is returned.
template <class Out>
__device__ inline int write_constants(const WgmmaArguments& a, const Channels& channels,
                                      int channel, u32 shared) {
  const bool exists = channel < channels.count;
  if constexpr (Channel<Out>::kPacked) {
    Channel<Out> loaded = {0, 0};
    if (exists) loaded = Channel<Out>::load(a, channels.first + channel);
    const u32 existing = __ballot_sync(kAllLanes, exists);
    // The products' signs say "below"; without a flip that is a clear bit.
    const u32 toggle = __ballot_sync(kAllLanes, loaded.at_least);
    if (threadIdx.x % 32 == 0) {
      store_shared(shared + Layout::kToggle + channel / kWordBits * 4, toggle);
      store_shared(shared + Layout::kExists + channel / kWordBits * 4, existing);
    }
    return loaded.threshold;
  } else {
    Channel<Out> loaded = {0.0f, 0.0f};
    if (exists) loaded = Channel<Out>::load(a, channels.first + channel);
    store_shared(shared + Layout::kAlpha + 4 * channel, __float_as_uint(loaded.alpha));
    store_shared(shared + Layout::kAddend + 4 * channel, __float_as_uint(loaded.addend));
    return 0;
  }
}

// The 128 producers fill the constants of the channels, a channel a thread, wait for the filters,
// and fill the table of border classes.
template <class Out>
__device__ inline void build_tables(const WgmmaArguments& a, const Channels& channels,
                                    const Layout& layout, u32 shared, u8* dynamic) {
  constexpr int kPasses = (TILE_N + kWarpgroup - 1) / kWarpgroup;
  const int thread = threadIdx.x % kWarpgroup;
  int thresholds[kPasses];
#pragma unroll
  for (int i = 0; i < kPasses; ++i) {
    const int channel = i * kWarpgroup + thread;
    if (channel < TILE_N) thresholds[i] = write_constants<Out>(a, channels, channel, shared);
  }
  wait_for_filters();

  const u8* filters = dynamic + layout.filters;
  int* counted = reinterpret_cast<int*>(dynamic + layout.counted);
  // Loops, not unrolled code: what runs once comes from memory an instruction after the other.
#pragma unroll 1
  for (int i = 0; i < kPasses; ++i) {
    const int channel = i * kWarpgroup + thread;
    if (channel >= TILE_N) break;
    const int threshold = i == 0 ? thresholds[0] : thresholds[kPasses - 1];
    const CountedTaps taps = {counted + channel};
    taps.count(a, filters, column_of(channel));
    u32 entry = shared + Layout::kTable + 4 * channel;
#pragma unroll 1
    for (int row = 0; row < Layout::row_classes(a); ++row) {
#pragma unroll 1
      for (int column = 0; column < Layout::column_classes(a); ++column) {
        const float value = table_entry<Out>(taps.left_by(a, row, column), threshold);
        store_shared(entry, __float_as_uint(value));
        entry += 4 * TILE_N;
      }
    }
  }
}
