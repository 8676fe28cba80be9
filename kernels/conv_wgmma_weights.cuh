// The filters of a block of conv_wgmma in shared memory, and what its epilogue needs of them.
#pragma once

#include "conv_wgmma_border.cuh"
#include "conv_wgmma_tile.cuh"
// (After the tile.)
#include "conv_wgmma_constants.cuh"

// Where a chunk of depth stands in a filter: stepped through without divisions.
struct ChunkSource {
  int slab;
  int chunk;  // of the slab
  int plane;  // WORD_TAPS 1
  int word;   // of the filter

  static __device__ ChunkSource first_of(int slab) {
    return {slab, 0, 0, WORD_TAPS > 1 ? 0 : slab * PLANES * kChunkWords};
  }

  // Words of the filter that the chunk holds.
  __device__ int words(int group_words) const {
    if (chunk >= kUsedChunks) return 0;
    if constexpr (WORD_TAPS > 1) {
      const int left = KERNEL_COLUMNS - chunk % kRowPieces * WORD_TAPS;
      return (left < WORD_TAPS ? left : WORD_TAPS) * group_words;
    } else {
      return PARTIAL ? group_words - (slab * PLANES + plane) * kChunkWords : kChunkWords;
    }
  }

  __device__ void step(int group_words) {
    if constexpr (WORD_TAPS > 1) {
      word += words(group_words);
    } else {
      word += kChunkWords;
      if (++plane == PLANES) {
        plane = 0;
        word += group_words - PLANES * kChunkWords;
      }
    }
    ++chunk;
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

// Called by the consumers only; the producers do not wait for the filters.
constexpr int kConsumerThreads = kThreads - kWarpgroup;
constexpr int kConsumersBarrier = 1;

__device__ inline void sync_consumers() { sync_threads<kConsumerThreads>(kConsumersBarrier); }

// A slab of a filter, by the four lanes that share a column: a lane takes every fourth chunk.
constexpr int kLanesOfColumn = 4;

// Whole chunks go through registers, several loads in flight: for many filters that is faster than
// asynchronous copies, of which each waits for the one before it to take its addresses. (For the
// few of a small block it is not.)
__device__ inline void load_slab(const WgmmaArguments& a, const u32* filter, bool exists, int slab,
                                 int lane_chunk, u32 to) {
  constexpr int kMine = (kSlabChunks + kLanesOfColumn - 1) / kLanesOfColumn;
  const int group_words = static_cast<int>(a.group_words);
  uint4 pieces[kMine];
#pragma unroll
  for (int i = 0; i < kMine; ++i) {
    const int chunk = lane_chunk + kLanesOfColumn * i;
    const int piece = slab * PLANES + chunk % PLANES;
    pieces[i] = make_uint4(0, 0, 0, 0);
    if (exists && chunk < kUsedChunks && (!PARTIAL || piece * kChunkWords < group_words)) {
      pieces[i] = *reinterpret_cast<const uint4*>(filter + chunk / PLANES * group_words +
                                                  piece * kChunkWords);
    }
  }
#pragma unroll
  for (int i = 0; i < kMine; ++i) {
    const int chunk = lane_chunk + kLanesOfColumn * i;
    if (chunk < kSlabChunks) store_chunk(to + chunk * kFilterChunkBytes, pieces[i]);
  }
}

__device__ inline void copy_slab(const WgmmaArguments& a, const u32* filter, bool exists, int slab,
                                 int lane_chunk, u32 to) {
  const int group_words = static_cast<int>(a.group_words);
  ChunkSource source = ChunkSource::first_of(slab);
#pragma unroll 1
  for (int skip = 0; skip < lane_chunk; ++skip) source.step(group_words);
#pragma unroll 1
  while (source.chunk < kSlabChunks) {
    copy_filter_piece(a, to + source.chunk * kFilterChunkBytes, filter, source.word,
                      exists ? source.words(group_words) : 0);
#pragma unroll
    for (int step = 0; step < kLanesOfColumn; ++step) source.step(group_words);
  }
}

// The filters are there once all consumers have waited for their copies. A warp takes the 8 filters
// of neighbouring columns at a time: 64 bytes of each at once, and no two to one bank. Blocks of
// the same filters start at different ones, or all would ask one part of the second-level cache at
// a time.
__device__ inline void load_filters(const WgmmaArguments& a, const Channels& channels, int rotation,
                                    u32 target) {
  constexpr int kWarps = kConsumerThreads / 32;
  constexpr int kBlocks = TILE_N / 8;
  const int warp = static_cast<int>(threadIdx.x) / 32 - kWarpgroup / 32;
  const int lane = threadIdx.x % 32;
  const int slabs = static_cast<int>(a.slabs);
#pragma unroll 1
  for (int i = warp; i < kBlocks * slabs; i += kWarps) {
    const int slab = i / kBlocks;
    const int column = (i + rotation) % kBlocks * 8 + lane % 8;
    const int channel = column_of(column);  // its own inverse
    const bool exists = channel < channels.count;
    const u32* filter = a.weight + static_cast<i64>(channels.first + channel) *
                                       (kTaps * static_cast<int>(a.group_words));
    const u32 to = target + slab * kSlabChunks * kFilterChunkBytes + column * kChunkBytes;
    if constexpr (CONSUMERS > 1 && WORD_TAPS == 1 && COPY_WORDS == kChunkWords && !MASKED) {
      load_slab(a, filter, exists, slab, lane / 8, to);
    } else {
      copy_slab(a, filter, exists, slab, lane / 8, to);
    }
  }
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

// group_channels - 2 popc(filter), per tap and channel.
__device__ inline void count_taps(const WgmmaArguments& a, const u8* filters, int* counted) {
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x) - kWarpgroup; i < kTaps * TILE_N;
       i += kConsumerThreads) {
    const int tap = i / TILE_N;
    const int set =
        tap_bits(a, filters, tap / KERNEL_COLUMNS, tap % KERNEL_COLUMNS, column_of(i % TILE_N));
    counted[i] = static_cast<int>(a.group_channels) - 2 * set;
  }
}

// The sum of a channel over the taps that a pair of border classes leaves (BorderAxis::class_of).
__device__ inline int sum_of_class(const WgmmaArguments& a, const int* counted, int row_class,
                                   int column_class) {
  const TapRange rows =
      TapRange::left_by(row_class, static_cast<int>(a.cut_first_rows), KERNEL_ROWS);
  const TapRange columns =
      TapRange::left_by(column_class, static_cast<int>(a.cut_first_columns), KERNEL_COLUMNS);
  int sum = 0;
#pragma unroll 1
  for (int row = rows.first; row < rows.end; ++row) {
#pragma unroll
    for (int column = 0; column < KERNEL_COLUMNS; ++column) {
      const int value = counted[(row * KERNEL_COLUMNS + column) * TILE_N];
      sum += column >= columns.first && column < columns.end ? value : 0;
    }
  }
  return sum;
}

// The constants of the channels.
template <class Out>
__device__ inline void write_all_constants(const WgmmaArguments& a, const Channels& channels,
                                           u32 shared) {
#pragma unroll 1
  for (int channel = static_cast<int>(threadIdx.x) - kWarpgroup; channel < TILE_N;
       channel += kConsumerThreads) {
    const int threshold = write_constants<Out>(a, channels, channel, shared);
    if constexpr (Channel<Out>::kPacked) {
      store_shared(shared + Layout::kThreshold + 4 * channel, static_cast<u32>(threshold));
    }
#if RESIDUAL
    write_residual_constants(a, channels, channel, shared);
#endif
  }
}

// The table of border classes, once the filters are there: by all consumers. Loops, not unrolled
// code: what runs once comes from memory an instruction after the other.
template <class Out>
__device__ inline void build_table(const WgmmaArguments& a, const Layout& layout, u32 shared,
                                   u8* dynamic) {
  int* counted = reinterpret_cast<int*>(dynamic + layout.counted);
  count_taps(a, dynamic + layout.filters, counted);
  sync_consumers();
  const int column_classes = Layout::column_classes(a);
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x) - kWarpgroup; i < Layout::classes(a) * TILE_N;
       i += kConsumerThreads) {
    const int border = i / TILE_N;
    const int channel = i % TILE_N;
    const int row_class = divide_small(border, a.column_classes_inverse);
    const int sum =
        sum_of_class(a, counted + channel, row_class, border - row_class * column_classes);
    const int threshold =
        Channel<Out>::kPacked
            ? static_cast<int>(load_shared(shared + Layout::kThreshold + 4 * channel))
            : 0;
    store_shared(shared + Layout::kTable + 4 * i,
                 __float_as_uint(table_entry<Out>(sum, threshold)));
  }
  sync_consumers();
}
