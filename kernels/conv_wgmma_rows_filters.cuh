// What the consumers of conv_wgmma_rows make before their first tile: the filters in shared memory,
// the constants and the table of border classes, and where pixels lie.
#pragma once

#include "conv_wgmma_border.cuh"
#include "conv_wgmma_rows_tile.cuh"
// (After the tile.)
#include "conv_wgmma_rows_bits.cuh"

constexpr int kConsumerBarrier = 1;

__device__ inline void sync_consumers() { sync_threads<kConsumerThreads>(kConsumerBarrier); }

// The words of the filters that this thread copies: a warp copies a chunk of 8 columns at a time.
template <class Use>
__device__ inline void for_own_words(const Work& work, Use use) {
  constexpr int kBlocks = TILE_N / 8;
  const int lane = threadIdx.x % 32;
#pragma unroll 2
  for (int i = threadIdx.x / 32; i < kBlocks * kChunks; i += 4 * CONSUMERS) {
    const int chunk = i / kBlocks;
    const int column = i % kBlocks * 8 + lane / 4;
    const u32 to = work.shared + work.layout.filters + chunk * kFilterChunkBytes +
                   column * kChunkBytes + lane % 4 * 4;
    use(to, column_of(column), Depth::at(chunk, lane % 4));  // (its own inverse)
  }
}

__device__ inline void copy_filters(const Work& work) {
  const WgmmaArguments& a = work.a;
  const u32* first = a.weight + static_cast<i64>(work.channels.first) * (kTaps * WORDS);
  const int count = work.channels.count;
  for_own_words(work, [=](u32 to, int channel, Depth depth) {
    const bool exists = channel < count && depth.tap < kTaps;
    const int source = exists ? (channel * kTaps + depth.tap) * WORDS + depth.word : 0;
    copy_async<4>(to, first + source, exists);
  });
  commit_copies();
}

// A user's tensor may have anything in the tails.
__device__ inline void mask_filters(const Work& work) {
  const u32 mask = tail_mask(work.a.group_channels);
  for_own_words(work, [=](u32 to, int, Depth depth) {
    if (depth.word == WORDS - 1) store_shared(to, load_shared(to) & mask);
  });
}

// Of the channels of all taps: whatever the tails of the activations hold does not count.
__device__ inline void write_ones(const Work& work) {
  constexpr int kWords = (kColumns - TILE_N) * kChunkWords;
  const u32 mask = tail_mask(work.a.group_channels);
#pragma unroll 1
  for (int i = threadIdx.x; i < kWords * kChunks; i += kConsumerThreads) {
    const int chunk = i / kWords;
    const Depth depth = Depth::at(chunk, i % kChunkWords);
    const u32 ones = depth.word == WORDS - 1 ? mask : ~0u;
    store_shared(work.shared + work.layout.filters + chunk * kFilterChunkBytes +
                     TILE_N * kChunkBytes + 4 * (i % kWords),
                 depth.tap < kTaps ? ones : 0u);
  }
}

__device__ inline void write_spots(const Work& work) {
  const WgmmaArguments& a = work.a;
  const BorderAxis rows = {
      static_cast<int>(a.stride_rows),
      static_cast<int>(a.padding_rows),
      static_cast<int>(a.dilation_rows),
      a.tap_rows_inverse,
      static_cast<int>(a.dilation_rows) * (KERNEL_ROWS - 1) + 1 - static_cast<int>(a.height),
      static_cast<int>(a.cut_first_rows)};
  const BorderAxis columns = {
      static_cast<int>(a.stride_columns),          static_cast<int>(a.padding_columns),
      static_cast<int>(a.dilation_columns),        a.tap_columns_inverse,
      static_cast<int>(a.reach_columns - a.width), static_cast<int>(a.cut_first_columns)};
  const int width = static_cast<int>(a.out_width);
  const int plane = static_cast<int>(a.out_height) * width;
  const int column_classes = Layout::column_classes(a);
  const bool borders = Layout::classes(a) > 1;
  const int row_step = static_cast<int>(a.step_rows * a.pitch_bytes);
  const int column_step = static_cast<int>(a.stride_columns) * kPixelBytes;
#pragma unroll 1
  for (int i = threadIdx.x; i < plane; i += kConsumerThreads) {
    const int row = divide_by(i, a.by_out_width);
    const int column = i - row * width;
    const int border = borders ? rows.class_of(row) * column_classes + columns.class_of(column) : 0;
    const int offset = static_cast<int>(a.first_bytes) + row * row_step + column * column_step;
    store_shared(work.shared + work.layout.spots + 4 * i, Spot::make(offset, border));
  }
}

template <class Out>
__device__ inline void write_all_constants(const Work& work) {
#pragma unroll 1
  for (int channel = threadIdx.x; channel < TILE_N; channel += kConsumerThreads) {
    const int threshold = write_constants<Out>(work.a, work.channels, channel, work.shared);
    store_shared(work.shared + Layout::kThresholds + 4 * channel, threshold);
  }
}

// Per tap and channel, (channels - 2 popc(filter)).
__device__ inline void count_taps(const Work& work) {
#pragma unroll 1
  for (int i = threadIdx.x; i < kTaps * TILE_N; i += kConsumerThreads) {
    const int tap = i / TILE_N;
    const u32 filter = work.shared + work.layout.filters + column_of(i % TILE_N) * kChunkBytes;
    int set = 0;
#pragma unroll
    for (int word = 0; word < WORDS; ++word) {
      set += __popc(load_shared(filter + Depth::offset_of(tap, word)));
    }
    store_shared(work.shared + Layout::kCounted + 4 * i,
                 static_cast<int>(work.a.group_channels) - 2 * set);
  }
}

// Of the taps that a border class leaves.
__device__ inline int counted_of(const Work& work, int border, int channel) {
  const WgmmaArguments& a = work.a;
  const int row_class = border / Layout::column_classes(a);
  const int column_class = border - row_class * Layout::column_classes(a);
  const TapRange rows =
      TapRange::left_by(row_class, static_cast<int>(a.cut_first_rows), KERNEL_ROWS);
  const TapRange columns =
      TapRange::left_by(column_class, static_cast<int>(a.cut_first_columns), KERNEL_COLUMNS);
  int counted = 0;
#pragma unroll 1
  for (int row = rows.first; row < rows.end; ++row) {
#pragma unroll 1
    for (int column = columns.first; column < columns.end; ++column) {
      const int tap = row * KERNEL_COLUMNS + column;
      counted += load_shared(work.shared + Layout::kCounted + 4 * (tap * TILE_N + channel));
    }
  }
  return counted;
}

__device__ inline void write_float_table(const Work& work) {
  const int entries = Layout::classes(work.a) * TILE_N;
#pragma unroll 1
  for (int i = threadIdx.x; i < entries; i += kConsumerThreads) {
    const float entry = table_entry<float32>(counted_of(work, i / TILE_N, i % TILE_N), 0);
    store_shared(work.shared + Layout::kTable + 4 * i, __float_as_uint(entry));
  }
}

__device__ inline void write_bit_table(const Work& work) {
  constexpr int kPairs = TILE_N / 2;
  const int entries = Layout::classes(work.a) * kPairs;
#pragma unroll 1
  for (int i = threadIdx.x; i < entries; i += kConsumerThreads) {
    const int border = i / kPairs;
    const int pair = i % kPairs;
    int counted[2], threshold[2];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      counted[k] = counted_of(work, border, 2 * pair + k);
      threshold[k] = load_shared(work.shared + Layout::kThresholds + 4 * (2 * pair + k));
    }
    const u32 to = work.shared + Layout::kTable + border * Layout::kClassBytes + 4 * pair;
    store_shared(to, BitTable::entry(counted, threshold, 0));
    store_shared(to + BitTable::kOddBytes, BitTable::entry(counted, threshold, 1));
  }
}

template <class Out>
__device__ inline void prepare(const Work& work) {
  copy_filters(work);
  write_spots(work);
  write_ones(work);
  write_all_constants<Out>(work);
  wait_copies<0>();
  if constexpr (MASKED) mask_filters(work);
  publish_to_products();
  sync_consumers();
  count_taps(work);
  sync_consumers();
  if constexpr (Channel<Out>::kPacked) {
    write_bit_table(work);
  } else {
    write_float_table(work);
  }
  sync_consumers();
}
