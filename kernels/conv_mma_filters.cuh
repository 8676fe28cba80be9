// The filters of a stage in shared memory: [channel][chunk][16 bytes], chunks in the order (tap
// row, tap column by folds, plane). An odd number of chunks a channel keeps eight rows of a product
// in all banks.
#pragma once

#include "conv_mma_tile.cuh"

// Channels are stored so that each lane gets consecutive ones of the product's columns: column
// 2t+e of product b belongs to lane t. For packed output a lane has WARP_N / 4 of them in a row,
// which it stores as 8 or 16 bits; for floats it has 8 of every 32, which it stores as 16 bytes.
__device__ constexpr int lane_channel(int lane, int group) {
  return Channel<OUT>::kPacked ? (lane & 3) * (WARP_N / 4) + group * kLaneChannels
                               : group * 32 + (lane & 3) * kLaneChannels;
}

// (Of unsigned numbers remainders take one instruction.)
__device__ constexpr int channel_of_row(int tile_row) {
  const u32 row = static_cast<u32>(tile_row);
  const u32 in_warp = row % WARP_N;
  const u32 product = in_warp / 8;
  const int of_lane =
      lane_channel(static_cast<int>(in_warp % 8 / 2), static_cast<int>(product / 4));
  return of_lane + static_cast<int>(row - in_warp + product % 4 * 2 + row % 2);
}

// Where a chunk is in the patch (bytes from the first tap's entry) and in a filter (words).
struct Chunk {
  int patch;
  int filter;
};

// The plane of a stage and the first tap of which a chunk has words.
struct ChunkWords {
  int plane;
  int row;
  int column;

  static __device__ ChunkWords of(const MmaArguments& a, int chunk) {
    const int in_order = divide_by(chunk, a.by_stage_planes);
    const int row = divide_by(in_order, a.by_folds);
    return {chunk - in_order * static_cast<int>(a.stage_planes), row,
            (in_order - row * static_cast<int>(a.folds)) * static_cast<int>(a.fold)};
  }
};

__device__ inline int chunk_count(const MmaArguments& a) {
  return static_cast<int>(a.tap_chunks * a.stage_planes);
}

__device__ inline int step_count(const MmaArguments& a) { return (chunk_count(a) + 1) / 2; }

// Entries of the patch from the first tap to the others, in order.
__device__ inline void describe_taps(const MmaArguments& a, int* taps) {
  const int count = static_cast<int>(a.kernel_rows * a.kernel_columns);
#pragma unroll 1
  for (int i = thread_index(); i < count; i += kThreads) {
    const int row = divide_by(i, a.by_kernel_columns);
    const int column = i - row * static_cast<int>(a.kernel_columns);
    taps[i] =
        row * static_cast<int>(a.tap_rows_apart) + column * static_cast<int>(a.tap_columns_apart);
  }
}

// An odd count is followed by a chunk of zero filters; any part of the patch may meet those.
__device__ inline void describe_chunks(const MmaArguments& a, Chunk* chunks) {
  const int entries = static_cast<int>(a.segment_entries * a.segments);
#pragma unroll 1
  for (int i = thread_index(); i < 2 * step_count(a); i += kThreads) {
    const ChunkWords words = ChunkWords::of(a, i);
    const int entry = words.row * static_cast<int>(a.tap_rows_apart) +
                      words.column * static_cast<int>(a.tap_columns_apart) + words.plane * entries;
    const int tap = words.row * static_cast<int>(a.kernel_columns) + words.column;
    const int word = tap * static_cast<int>(a.group_words) + words.plane * kChunkWords;
    chunks[i] = i < chunk_count(a) ? Chunk{entry * kChunkBytes, word} : Chunk{0, 0};
  }
}

// One chunk of a filter through registers: words past a tap's last and taps past the row's last
// are zero, and so are the tail bits, whatever a user's tensor has there.
__device__ inline uint4 gather_chunk(const MmaArguments& a, const u32* filter, int chunk,
                                     int stage) {
  const int group_words = static_cast<int>(a.group_words);
  const int columns = static_cast<int>(a.kernel_columns);
  const int fold = static_cast<int>(a.fold);
  const ChunkWords first = ChunkWords::of(a, chunk);
  const int plane = stage * static_cast<int>(a.stage_planes) + first.plane;
  u32 words[kChunkWords];
#pragma unroll
  for (int w = 0; w < kChunkWords; ++w) {
    // Folded pixels have one or two words.
    const int tap = fold == 1 ? 0 : w >> (group_words - 1);
    const int word = fold == 1 ? plane * kChunkWords + w : w - tap * group_words;
    words[w] = word < group_words && first.column + tap < columns ? filter[w] : 0u;
    if (word == group_words - 1) words[w] &= tail_mask(a.group_channels);
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// A row's filter, from the stage's first word on; null where there is no such channel.
__device__ inline const u32* filter_of_row(const MmaArguments& a, const Block& block, int row,
                                           int stage) {
  const int channel = channel_of_row(row);
  if (channel >= block.channels) return nullptr;
  return a.weight + stage * static_cast<int>(a.stage_planes) * kChunkWords +
         static_cast<u64>(block.first_channel + channel) * static_cast<u32>(a.filter_words);
}

// By so many threads. Eight neighbouring lanes copy 128 bytes of one filter in their order: where
// the sources or the targets of copies lie apart, an H200 takes 2 to 4 cycles for each, eight times
// as long as for these.
template <int Threads>
__device__ inline void load_filters(const MmaArguments& a, const Block& block, const Chunk* chunks,
                                    int stage, u8* target, u32 thread) {
  constexpr u32 kChunks = 8;  // at a time
  constexpr int kRows = Threads / kChunks;
  constexpr int kTurns = kTileN / kRows;
  static_assert(kTurns * kRows == kTileN);
  const int first_row = static_cast<int>(thread / kChunks);
  const int first_chunk = static_cast<int>(thread % kChunks);
  const int count = chunk_count(a);
  const int pitch = static_cast<int>(a.filter_pitch);
  if (a.copy_words == 4 && a.fold == 1 && a.group_channels % kWordBits == 0) {
    const u32* filters[kTurns];
#pragma unroll
    for (int turn = 0; turn < kTurns; ++turn) {
      filters[turn] = filter_of_row(a, block, first_row + turn * kRows, stage);
    }
    const u32 to = shared_address(target) + first_row * pitch;
#pragma unroll 1
    for (int chunk = first_chunk; chunk < 2 * step_count(a); chunk += kChunks) {
      const int word = chunks[chunk].filter;
#pragma unroll
      for (int turn = 0; turn < kTurns; ++turn) {
        const bool exists = filters[turn] != nullptr && chunk < count;
        copy_async<16>(to + turn * kRows * pitch + chunk * kChunkBytes,
                       exists ? filters[turn] + word : a.weight, exists);
      }
    }
    return;
  }
#pragma unroll 1
  for (int row = first_row; row < kTileN; row += kRows) {
    const u32* filter = filter_of_row(a, block, row, stage);
#pragma unroll 1
    for (int chunk = first_chunk; chunk < 2 * step_count(a); chunk += kChunks) {
      *reinterpret_cast<uint4*>(target + row * pitch + chunk * kChunkBytes) =
          filter != nullptr && chunk < count
              ? gather_chunk(a, filter + chunks[chunk].filter, chunk, stage)
              : make_uint4(0, 0, 0, 0);
    }
  }
}

// The consumers load the filters that stay.
__device__ inline void load_all_filters(const MmaArguments& a, const Block& block, u8* shared) {
#pragma unroll 1
  for (int stage = 0; stage < static_cast<int>(a.stages); ++stage) {
    load_filters<kConsumerThreads>(a, block, at<Chunk>(shared, a.chunks_at), stage,
                                   shared + stage * static_cast<int>(a.filter_bytes),
                                   thread_index());
  }
}
