// The filters of a block of conv_wgmma in shared memory, and what its epilogue needs of them.
#pragma once

#include "conv_wgmma_border.cuh"
#include "conv_wgmma_tile.cuh"
// (After the tile.)
#include "conv_wgmma_bits.cuh"
#include "count_words.cuh"

// Where a chunk of depth stands in a filter: stepped through without divisions.
struct ChunkSource {
  int slab;
  int chunk;  // of the slab
  int plane;  // WORD_TAPS 1
  int word;   // of the filter

  static __device__ ChunkSource first_of(int slab) {
    return {slab, 0, 0, WORD_TAPS > 1 ? 0 : slab * PLANES * kChunkWords};
  }

  // Without the word.
  static __device__ ChunkSource at(int slab, int chunk) { return {slab, chunk, chunk % PLANES, 0}; }

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
  constexpr int kStep = MASKED ? 1 : COPY_WORDS;
#pragma unroll
  for (int word = 0; word < kChunkWords; word += kStep) {
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

// A warp takes a slab of the 8 filters of neighbouring columns at a time: 64 bytes of each at once,
// and no two to one bank. A lane takes every fourth chunk of a column.
constexpr int kLanesOfColumn = 4;

// Blocks of the same filters start at different ones, or all would ask one part of the second-level
// cache at a time.
struct FilterTask {
  static constexpr int kWarps = kConsumerThreads / 32;
  static constexpr int kBlocks = TILE_N / 8;

  int slab;
  int channel;
  int lane_chunk;
  const u32* filter;
  u32 to;

  static __device__ int count(const WgmmaArguments& a) {
    return kBlocks * static_cast<int>(a.slabs);
  }
  static __device__ int first() { return static_cast<int>(threadIdx.x) / 32 - kWarpgroup / 32; }

  // `filters` are the block's.
  static __device__ FilterTask at(const WgmmaArguments& a, const u32* filters, int rotation,
                                  u32 target, int index) {
    const int lane = threadIdx.x % 32;
    FilterTask task;
    task.slab = index / kBlocks;
    const int column = (index + rotation) % kBlocks * 8 + lane % 8;
    task.channel = column_of(column);  // its own inverse
    // Of neighbouring columns, every second has a channel 8 further, which may fall into the same
    // banks.
    task.lane_chunk = lane / 8 ^ lane % 8 / 2;
    task.filter = filters + task.channel * (kTaps * static_cast<int>(a.group_words));
    task.to = target + task.slab * kSlabChunks * kFilterChunkBytes + column * kChunkBytes;
    return task;
  }
};

// Whole chunks go through registers, a task's loads in flight together, from a copy in shared
// memory where there is room for it: for many filters that is faster than asynchronous copies, of
// which each waits for the one before it to take its addresses. (For the few of a small block it is
// not.) Their bits are counted on the way.
constexpr bool kThroughRegisters =
    CONSUMERS > 1 && WORD_TAPS == 1 && COPY_WORDS == kChunkWords && !MASKED;

struct FilterPieces {
  static constexpr int kCount = (kSlabChunks + kLanesOfColumn - 1) / kLanesOfColumn;

  uint4 pieces[kCount];

  __device__ void load(const WgmmaArguments& a, const FilterTask& task, bool exists) {
    const int group_words = static_cast<int>(a.group_words);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int chunk = task.lane_chunk + kLanesOfColumn * i;
      const int part = task.slab * PLANES + chunk % PLANES;  // of the group's words
      pieces[i] = make_uint4(0, 0, 0, 0);
      if (exists && chunk < kUsedChunks && (!PARTIAL || part * kChunkWords < group_words)) {
        pieces[i] = *reinterpret_cast<const uint4*>(task.filter + chunk / PLANES * group_words +
                                                    part * kChunkWords);
      }
    }
  }

  // `counted` is the address of the taps' counts (begin_counting).
  __device__ void store(const FilterTask& task, u32 counted) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int chunk = task.lane_chunk + kLanesOfColumn * i;
      const uint4 words = pieces[i];
      if (chunk < kSlabChunks) store_chunk(task.to + chunk * kFilterChunkBytes, words);
      if (chunk < kUsedChunks) {
        const int set = count_words(words.x, words.y, words.z, words.w);
        add_shared(counted + 4 * (chunk / PLANES * TILE_N + task.channel), -2 * set);
      }
    }
  }
};

__device__ inline void copy_slab(const WgmmaArguments& a, const FilterTask& task, bool exists) {
  const int group_words = static_cast<int>(a.group_words);
  ChunkSource source = ChunkSource::first_of(task.slab);
#pragma unroll 1
  for (int skip = 0; skip < task.lane_chunk; ++skip) source.step(group_words);
#pragma unroll 1
  while (source.chunk < kSlabChunks) {
    copy_filter_piece(a, task.to + source.chunk * kFilterChunkBytes, task.filter, source.word,
                      exists ? source.words(group_words) : 0);
#pragma unroll
    for (int step = 0; step < kLanesOfColumn; ++step) source.step(group_words);
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
        reinterpret_cast<const u32*>(filters + chunk * kFilterChunkBytes + filter * kChunkBytes) +
        column % WORD_TAPS * kTapWords;
#pragma unroll
    for (int i = 0; i < kTapWords; ++i) set += __popc(words[i]);
  } else {
    const int tap = row * KERNEL_COLUMNS + column;
    for (int slab = 0; slab < static_cast<int>(a.slabs); ++slab) {
#pragma unroll
      for (int plane = 0; plane < PLANES; ++plane) {
        const int chunk = slab * kSlabChunks + tap * PLANES + plane;
        const uint4 words = *reinterpret_cast<const uint4*>(filters + chunk * kFilterChunkBytes +
                                                            filter * kChunkBytes);
        set += count_words(words.x, words.y, words.z, words.w);
      }
    }
  }
  return set;
}

// group_channels - 2 popc(filter), per tap and channel.
__device__ inline void count_taps(const WgmmaArguments& a, const Layout& layout, u8* dynamic) {
  const u8* filters = dynamic + layout.filters;
  int* counted = reinterpret_cast<int*>(dynamic + layout.counted);
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x) - kWarpgroup; i < kTaps * TILE_N;
       i += kConsumerThreads) {
    const int tap = i / TILE_N;
    const int set =
        tap_bits(a, filters, tap / KERNEL_COLUMNS, tap % KERNEL_COLUMNS, column_of(i % TILE_N));
    counted[i] = static_cast<int>(a.group_channels) - 2 * set;
  }
  sync_consumers();
}

// The sums of two neighbouring channels over the taps that a pair of border classes leaves
// (BorderAxis::class_of). `from` is where their counts of the first tap lie.
__device__ inline void counted_of(const WgmmaArguments& a, u32 from, int row_class,
                                  int column_class, int (&sums)[2]) {
  const TapRange rows =
      TapRange::left_by(row_class, static_cast<int>(a.cut_first_rows), KERNEL_ROWS);
  const TapRange columns =
      TapRange::left_by(column_class, static_cast<int>(a.cut_first_columns), KERNEL_COLUMNS);
  sums[0] = sums[1] = 0;
#pragma unroll 1
  for (int row = rows.first; row < rows.end; ++row) {
#pragma unroll
    for (int column = 0; column < KERNEL_COLUMNS; ++column) {
      u32 of_tap[2];
      load_pair(of_tap[0], of_tap[1], from + 4 * TILE_N * (row * KERNEL_COLUMNS + column));
      const bool left = column >= columns.first && column < columns.end;
#pragma unroll
      for (int i = 0; i < 2; ++i) sums[i] += left ? static_cast<int>(of_tap[i]) : 0;
    }
  }
}

// The constants of the channels.
template <class Out>
__device__ inline void write_all_constants(const WgmmaArguments& a, const Channels& channels,
                                           u32 shared) {
#pragma unroll 1
  for (int channel = first_channel_of<kConsumerThreads>(threadIdx.x - kWarpgroup); channel < TILE_N;
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

// FilterPieces count from there on. By all threads, before.
__device__ inline void begin_counting(const WgmmaArguments& a, u32 counted) {
  if constexpr (!kThroughRegisters) return;
#pragma unroll 1
  for (int i = threadIdx.x; i < kTaps * TILE_N / 4; i += kThreads) {
    fill_shared(counted + 16 * i, static_cast<u32>(a.group_channels));
  }
}

// The table of border classes, by all consumers but the first few once the filters are there: all
// wait for kTabled before they use it. Loops, not unrolled code: what runs once comes from memory
// an instruction after the other.
template <class Out, int Others = 0>
__device__ inline void build_table(const WgmmaArguments& a, const Layout& layout, u32 shared,
                                   u8* dynamic) {
  static_assert(Others == 0 || kThroughRegisters);
  if constexpr (!kThroughRegisters) count_taps(a, layout, dynamic);
  constexpr int kFirst = kWarpgroup * (1 + Others);
  constexpr int kPairs = TILE_N / 2;
  const int column_classes = Layout::column_classes(a);
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x) - kFirst; i < Layout::classes(a) * kPairs;
       i += kThreads - kFirst) {
    const int border = i / kPairs;
    const int channel = i % kPairs * 2;
    const int row_class = divide_small(border, a.column_classes_inverse);
    int counted[2];
    counted_of(a, shared + layout.counted + 4 * channel, row_class,
               border - row_class * column_classes, counted);
    write_entries<Out>(shared + Layout::kTable + border * Layout::kClassBytes, channel, counted,
                       shared + Layout::kThreshold);
  }
  arrive(shared + Layout::kTabled);
}

// The columns that count the activations: all bits that a filter may have, so that whatever else a
// patch holds counts nothing.
__device__ inline void write_ones(const WgmmaArguments& a, u32 filters) {
  const int group_words = static_cast<int>(a.group_words);
  const int chunks = static_cast<int>(a.slabs) * kSlabChunks;
  const u32 to = filters + TILE_N * kChunkBytes;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x) - kWarpgroup; i < chunks * kSetColumns;
       i += kConsumerThreads) {
    const int index = i / kSetColumns;
    const ChunkSource source = ChunkSource::at(index / kSlabChunks, index % kSlabChunks);
    const int existing = source.words(group_words);
    const int first = WORD_TAPS > 1 ? 0 : (source.slab * PLANES + source.plane) * kChunkWords;
    u32 words[kChunkWords];
#pragma unroll
    for (int word = 0; word < kChunkWords; ++word) {
      const bool last = (first + word) % group_words == group_words - 1;
      const u32 all = MASKED && last ? tail_mask(a.group_channels) : ~0u;
      words[word] = word < existing ? all : 0u;
    }
    store_chunk(to + index * kFilterChunkBytes + i % kSetColumns * kChunkBytes,
                make_uint4(words[0], words[1], words[2], words[3]));
  }
}

// The filters and constants of a block, complete for all consumers afterwards.
template <class Out>
__device__ inline void prepare_filters(const WgmmaArguments& a, const Channels& channels,
                                       int rotation, const Layout& layout, u32 shared,
                                       u8* dynamic) {
  if constexpr (kThroughRegisters) write_all_constants<Out>(a, channels, shared);
  if constexpr (kSetColumns > 0) write_ones(a, shared + layout.filters);
  const u32* filters =
      a.weight + static_cast<i64>(channels.first) * (kTaps * static_cast<int>(a.group_words));
  if (a.copied_bytes > 0) {
    filters = reinterpret_cast<const u32*>(dynamic + layout.copies);
    wait_barrier(shared + Layout::kCopied, 0);
  }
  const int count = FilterTask::count(a);
#pragma unroll 1
  for (int i = FilterTask::first(); i < count; i += FilterTask::kWarps) {
    const FilterTask task = FilterTask::at(a, filters, rotation, shared + layout.filters, i);
    const bool exists = task.channel < channels.count;
    if constexpr (kThroughRegisters) {
      FilterPieces pieces;
      pieces.load(a, task, exists);
      pieces.store(task, shared + layout.counted);
    } else {
      copy_slab(a, task, exists);
    }
  }
  if constexpr (!kThroughRegisters) {
    write_all_constants<Out>(a, channels, shared);  // meanwhile
    commit_copies();
    wait_copies<0>();
  }
  publish_to_products();
  sync_consumers();
}
