// What the consumers of conv_wgmma_rows make before their first tile: the filters in shared memory,
// the constants and the table of border classes.
#pragma once

#include "conv_wgmma_border.cuh"
#include "conv_wgmma_rows_tile.cuh"
// (After the tile.)
#include "conv_wgmma_rows_bits.cuh"
#include "count_words.cuh"

constexpr int kConsumerBarrier = 1;

__device__ inline void sync_consumers() { sync_threads<kConsumerThreads>(kConsumerBarrier); }

// Words of one load: as many as a filter's alignment allows.
constexpr int kLoadWords = WORDS < kChunkWords ? WORDS : kChunkWords;

// A span's words of one filter, which stand side by side there too.
struct SpanWords {
  // Of long spans lanes begin with different pieces, which keeps those of one bank apart.
  static constexpr int kPieces = WORDS < kStepWords ? 1 : kSpanChunks;

  u32 words[kSpanWords];

  // `turn` is the piece that is loaded first.
  __device__ void load(u32 filter, int span, bool exists, int turn) {
#pragma unroll
    for (int i = 0; i < kSpanWords; i += kLoadWords) {
      const int in_span = kPieces > 1 ? (i / kChunkWords + turn) % kPieces * kChunkWords : i;
      const int word = span * kSpanTaps * WORDS + in_span;
#pragma unroll
      for (int j = 0; j < kLoadWords; ++j) words[i + j] = 0;
      if (exists && in_span < kSpanTaps * WORDS && word < kTaps * WORDS) {
        load_words<kLoadWords>(words + i, filter + 4 * word);
      }
    }
#pragma unroll
    for (int by = 1; by < kPieces; by *= 2) turn_back(by, (turn & by) != 0);
  }

  // A user's tensor may have anything in the tails.
  __device__ void mask_tails(u32 mask) {
#pragma unroll
    for (int tap = 0; tap < kSpanTaps; ++tap) words[tap * WORDS + WORDS - 1] &= mask;
  }

  __device__ int set_bits(int tap) const { return count_words<WORDS>(words + tap * WORDS); }

  // In the order of Depth.
  __device__ uint4 chunk(int index) const {
    constexpr int kApart = kNeighbours ? kSpanChunks : 1;
    const u32* first = words + index * (kNeighbours ? 1 : kChunkWords);
    return make_uint4(first[0], first[kApart], first[2 * kApart], first[3 * kApart]);
  }

 private:
  __device__ void turn_back(int by, bool turned) {
    u32 before[kSpanWords];
#pragma unroll
    for (int i = 0; i < kSpanWords; ++i) before[i] = words[i];
#pragma unroll
    for (int i = 0; i < kSpanWords; ++i) {
      words[i] = turned ? before[(i + kSpanWords - by * kChunkWords) % kSpanWords] : before[i];
    }
  }
};

// The filters of 8 neighbouring columns, by a warp: four spans of each at once, one a lane.
struct FilterColumns {
  static constexpr int kBlocks = TILE_N / 8;
  static constexpr int kWarps = 4 * CONSUMERS;
  static constexpr int kSide = 4;
  static constexpr int kRounds = (kSpans + kSide - 1) / kSide;

  // Of neighbouring columns, every second has a channel 8 further, which falls into the same banks.
  // (Of 16 words a tap, other spans fall into the same banks as well.)
  static __device__ int span_at(int round) {
    const int of_column = WORDS > kStepWords ? 0 : threadIdx.x % 8 / 2;
    return round * kSide + (threadIdx.x % 32 / 8 ^ of_column);
  }

  // Their spans go to the filters, and their bits, counted.
  static __device__ void arrange(const Work& work, int column) {
    const int channel = column_of(column);  // (its own inverse)
    const u32 filter = work.shared + work.layout.copies + channel * (kTaps * kPixelBytes);
    const u32 to = work.shared + work.layout.filters + column * kChunkBytes;
    const u32 counted = work.shared + Layout::kCounted + 4 * channel;
    const int turn = (column % 2 + column % 8 / 4 * 2) % SpanWords::kPieces;
    SpanWords spans[kRounds];
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      spans[round].load(filter, span_at(round), channel < work.channels.count, turn);
    }
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int span = span_at(round);
      if (span < kSpans) store_span(work, spans[round], span, to, counted);
    }
  }

 private:
  static __device__ void store_span(const Work& work, SpanWords& words, int span, u32 to,
                                    u32 counted) {
    const int group_channels = static_cast<int>(work.a.group_channels);
    if constexpr (MASKED) words.mask_tails(tail_mask(group_channels));
    const u32 chunk = to + span * kSpanChunks * kFilterChunkBytes;
#pragma unroll
    for (int i = 0; i < kSpanChunks; ++i) {
      store_chunk(chunk + i * kFilterChunkBytes, words.chunk(i));
    }
#pragma unroll
    for (int of_span = 0; of_span < kSpanTaps; ++of_span) {
      const int tap = span * kSpanTaps + of_span;
      if (tap < kTaps) {
        store_shared(counted + 4 * TILE_N * tap, group_channels - 2 * words.set_bits(of_span));
      }
    }
  }
};

// Of the channels of all taps: whatever the tails of the activations hold does not count. From the
// last thread on, as write_parts takes the first.
__device__ inline void write_ones(const Work& work) {
  constexpr int kOnes = kColumns - TILE_N;
  const u32 mask = MASKED ? tail_mask(work.a.group_channels) : ~0u;
  const u32 to = work.shared + work.layout.filters + TILE_N * kChunkBytes;
#pragma unroll 1
  for (int i = kConsumerThreads - 1 - static_cast<int>(threadIdx.x); i < kOnes * kChunks;
       i += kConsumerThreads) {
    const int chunk = i / kOnes;
    u32 words[kChunkWords];
#pragma unroll
    for (int t = 0; t < kChunkWords; ++t) {
      const Depth depth = Depth::at(chunk, t);
      words[t] = depth.tap >= kTaps ? 0u : depth.word == WORDS - 1 ? mask : ~0u;
    }
    store_chunk(to + chunk * kFilterChunkBytes + i % kOnes * kChunkBytes,
                make_uint4(words[0], words[1], words[2], words[3]));
  }
}

// What is counted of two neighbouring channels in each row of taps, over the columns that a border
// class leaves.
struct CountedRows {
  int rows[KERNEL_ROWS][2];

  static __device__ CountedRows of(const Work& work, int column_class, int channel) {
    const TapRange columns =
        TapRange::left_by(column_class, static_cast<int>(work.a.cut_first_columns), KERNEL_COLUMNS);
    const u32 from = work.shared + Layout::kCounted + 4 * channel;
    CountedRows counted = {};
#pragma unroll
    for (int row = 0; row < KERNEL_ROWS; ++row) {
#pragma unroll
      for (int column = 0; column < KERNEL_COLUMNS; ++column) {
        u32 of_tap[2];
        load_pair(of_tap[0], of_tap[1], from + 4 * TILE_N * (row * KERNEL_COLUMNS + column));
        const bool left = column >= columns.first && column < columns.end;
#pragma unroll
        for (int i = 0; i < 2; ++i) counted.rows[row][i] += left ? static_cast<int>(of_tap[i]) : 0;
      }
    }
    return counted;
  }

  __device__ void sum(const TapRange& range, int (&sums)[2]) const {
    sums[0] = sums[1] = 0;
#pragma unroll
    for (int row = 0; row < KERNEL_ROWS; ++row) {
      const bool left = row >= range.first && row < range.end;
#pragma unroll
      for (int i = 0; i < 2; ++i) sums[i] += left ? rows[row][i] : 0;
    }
  }
};

// By all consumers but the first few: where there are such, all wait for kTabled before they use
// it.
template <class Out, int Others>
__device__ inline void write_table(const Work& work) {
  constexpr int kFirst = kWarpgroup * Others;
  constexpr int kPairs = TILE_N / 2;
  const int column_classes = Layout::column_classes(work.a);
  const int row_classes = Layout::row_classes(work.a);
  const int first_rows = static_cast<int>(work.a.cut_first_rows);
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x) - kFirst; i < column_classes * kPairs;
       i += kConsumerThreads - kFirst) {
    const int column_class = i / kPairs;
    const int channel = i % kPairs * 2;
    const CountedRows counted = CountedRows::of(work, column_class, channel);
    u32 of_class = work.shared + Layout::kTable + column_class * Layout::kClassBytes;
#pragma unroll 1
    for (int row_class = 0; row_class < row_classes; ++row_class) {
      int sums[2];
      counted.sum(TapRange::left_by(row_class, first_rows, KERNEL_ROWS), sums);
      write_entries<Out>(of_class, channel, sums, work.shared + Layout::kThresholds);
      of_class += column_classes * Layout::kClassBytes;
    }
  }
  if constexpr (Others > 0) arrive(work.shared + Layout::kTabled);
}

template <class Out>
__device__ inline void write_all_constants(const Work& work) {
#pragma unroll 1
  for (int channel = first_channel_of<kConsumerThreads>(threadIdx.x); channel < TILE_N;
       channel += kConsumerThreads) {
    const int threshold = write_constants<Out>(work.a, work.channels, channel, work.shared);
    store_shared(work.shared + Layout::kThresholds + 4 * channel, threshold);
  }
}

// What the products read, by the consumers. A block's code runs cold here, so that a loop is faster
// than unrolled code.
template <class Out>
__device__ inline void prepare_filters(const Work& work) {
  write_all_constants<Out>(work);
  wait_barrier(work.shared + Layout::kCopied, 0);
#pragma unroll 1
  for (int i = threadIdx.x / 32; i < FilterColumns::kBlocks; i += FilterColumns::kWarps) {
    FilterColumns::arrange(work, i * 8 + threadIdx.x % 8);
  }
  publish_to_products();
  sync_consumers();
}
