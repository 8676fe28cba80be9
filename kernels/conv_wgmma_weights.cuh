// The filters of a block of conv_wgmma in shared memory, and what its epilogue needs of them.
#pragma once

#include "conv_wgmma_border.cuh"
#include "conv_wgmma_tile.cuh"
// (After the tile.)
#include "conv_wgmma_constants.cuh"

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
// A warp copies two pieces of 16 filters at a time: whole sectors of memory, and few conflicts
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
#pragma unroll 1
      for (int chunk = lane / 16 + 2 * (warp / kBlocks); chunk < kSlabChunks;
           chunk += 2 * kWarpsPerBlock) {
        int first_word, existing;
        if constexpr (WORD_TAPS > 1) {
          const int column = chunk % kRowPieces * WORD_TAPS;
          const int taps =
              KERNEL_COLUMNS - column < WORD_TAPS ? KERNEL_COLUMNS - column : WORD_TAPS;
          first_word = (chunk / kRowPieces * KERNEL_COLUMNS + column) * group_words;
          existing = taps * group_words;
        } else {
          const int word = (slab * PLANES + chunk % PLANES) * kChunkWords;
          first_word = chunk / PLANES * group_words + word;
          existing = PARTIAL ? group_words - word : kChunkWords;
        }
        copy_filter_piece(a, to + chunk * kFilterChunkBytes, filter, first_word,
                          exists && chunk < kUsedChunks ? existing : 0);
      }
      to += kSlabChunks * kFilterChunkBytes;
    }
  }
}

// Where the depth's chunks lie in a patch, from the pixel under the first tap, in bytes.
__device__ inline void write_offsets(const WgmmaArguments& a, u32 target) {
  const int chunk = threadIdx.x;
  if (chunk >= kSlabChunks) return;
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
  store_shared(target + 4 * chunk, chunk < kUsedChunks ? offset : 0);
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
    const TapRange rows =
        TapRange::left_by(row_class, static_cast<int>(a.cut_first_rows), KERNEL_ROWS);
    const TapRange columns =
        TapRange::left_by(column_class, static_cast<int>(a.cut_first_columns), KERNEL_COLUMNS);
    return before(rows.end, columns.end) - before(rows.first, columns.end) -
           before(rows.end, columns.first) + before(rows.first, columns.first);
  }
};

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
