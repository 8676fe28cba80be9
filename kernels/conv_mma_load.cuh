// Global memory -> ring of stages. A stage holds 32 words of every row of the tile, of the
// activations and of the filters, in the order (tap, word of the group) that the weights have.
//
// A row's eight 16-byte chunks are permuted by the row's low bits, so that the eight rows that a
// matrix load reads lie in eight different groups of banks. (Rows of 64 bytes took twice the
// wavefronts to write: shared memory, not the tensor cores, is what limits this kernel.)
#pragma once

#include "conv_mma_tile.cuh"

__device__ constexpr int stage_offset(int row, int word) {
  return row * kStageWords + (((word / 4) ^ (row & 7)) * 4 + word % 4);
}

// Filters are stored so that, of the matrix product's columns, each lane gets 8 consecutive
// channels: column 2t+e of product b of lane t becomes channel 8t+2b+e.
__device__ constexpr int filter_row(int channel) {
  const int in_warp = channel % kWarpN;
  return channel - in_warp + in_warp % 8 / 2 * 8 + in_warp / 8 * 2 + in_warp % 2;
}

constexpr int kCopiesPerRow = kStageWords / COPY_WORDS;
constexpr int kRowsPerPass = kThreads / kCopiesPerRow;
constexpr int kUnroll = COPY_WORDS == 4 ? 2 : 1;  // passes; more of them spill registers

// Keeps a value in its register: the compiler would compute it anew in every stage.
__device__ inline void keep(u32& value) { asm volatile("" : "+r"(value)); }

// This thread's copies: the same words of every stage, of rows kRowsPerPass apart. From one stage
// to the next the position in the depth (tap, word of the group) advances by constants that the
// plan computed, so that a stage costs no division.
struct Loader {
  u32 stage_row;  // the first row of the tile, and the word of its stage
  u32 stage_word;
  u32 row_address;  // in shared memory
  u32 a_target;     // bytes from the start of a stage
  u32 b_target;
  u32 filter;   // word of the block's filters
  int tap_row;  // rows and columns of the image, from the first tap
  int tap_column;
  int word;

  static __device__ Loader of_thread(const Shared& shared) {
    Loader loader;
    loader.stage_row = threadIdx.x / kCopiesPerRow;
    loader.stage_word = threadIdx.x % kCopiesPerRow * COPY_WORDS;
    loader.row_address = shared_address(&shared.rows[loader.stage_row]);
    loader.a_target = 4 * stage_offset(loader.stage_row, loader.stage_word);
    loader.b_target = loader.filter_target(0);
    keep(loader.stage_row);
    keep(loader.stage_word);
    keep(loader.row_address);
    keep(loader.a_target);
    keep(loader.b_target);
    return loader;
  }

  // Where the row is a multiple of 8 further, the permutation is that of the first row.
  __device__ u32 activation_target(int pass) const {
    if constexpr (kRowsPerPass % 8 == 0) return a_target + pass * kStageWords * 4;
    return 4 * stage_offset(static_cast<int>(stage_row) + pass, static_cast<int>(stage_word));
  }

  __device__ u32 filter_target(int pass) const {
    const int row = filter_row(static_cast<int>(stage_row) + pass);
    return 4 * (TILE_M * kStageWords + stage_offset(row, static_cast<int>(stage_word)));
  }

  // To the start of the depth.
  __device__ void rewind(const ConvArguments& a) {
    const int tap = static_cast<int>(stage_word) / static_cast<int>(a.group_words);
    const int row = tap / static_cast<int>(a.kernel_columns);
    word = static_cast<int>(stage_word) % static_cast<int>(a.group_words);
    tap_row = row * static_cast<int>(a.dilation_rows);
    tap_column =
        (tap - row * static_cast<int>(a.kernel_columns)) * static_cast<int>(a.dilation_columns);
    filter = stage_row * filter_words(a) + stage_word;
  }

  __device__ void advance(const ConvArguments& a) {
    filter += kStageWords;
    word += static_cast<int>(a.walk_words);
    tap_column += static_cast<int>(a.walk_columns);
    tap_row += static_cast<int>(a.walk_rows);
    if (word >= static_cast<int>(a.group_words)) {
      word -= static_cast<int>(a.group_words);
      tap_column += static_cast<int>(a.dilation_columns);
    }
    if (tap_column >= static_cast<int>(a.reach_columns)) {
      tap_column -= static_cast<int>(a.reach_columns);
      tap_row += static_cast<int>(a.dilation_rows);
    }
  }

  __device__ bool inside_depth(const ConvArguments& a) const {
    return tap_row < static_cast<int>(a.reach_rows);
  }
};

__device__ inline void load_activations(const ConvArguments& a, const Loader& loader, u32 stage) {
  const bool exists = loader.inside_depth(a);
  const int offset = (loader.tap_row * static_cast<int>(a.width) + loader.tap_column) *
                         static_cast<int>(a.pixel_words) +
                     loader.word;
#pragma unroll kUnroll
  for (int pass = 0; pass < TILE_M; pass += kRowsPerPass) {
    const Row row = load_row(loader.row_address + pass * static_cast<int>(sizeof(Row)));
    const u32 target = stage + loader.activation_target(pass);
    const bool inside =
        exists && static_cast<u32>(row.row + loader.tap_row) < static_cast<u32>(a.height) &&
        static_cast<u32>(row.column + loader.tap_column) < static_cast<u32>(a.width);
    const u32* words = row.words + offset;
#if MASKED
    // A user's tensor may have anything in the tails, so the words pass through registers.
    u32 value = inside ? *words : 0u;
    if (loader.word == static_cast<int>(a.group_words) - 1) value &= tail_mask(a.group_channels);
    store_shared(target, value);
#else
    copy_async<COPY_WORDS * 4>(target, words, inside);
#endif
  }
}

__device__ inline void load_filters(const ConvArguments& a, const Loader& loader, const u32* weight,
                                    int channels, u32 stage) {
  const bool exists = loader.inside_depth(a);
#pragma unroll kUnroll
  for (int pass = 0; pass < TILE_N; pass += kRowsPerPass) {
    const u32 target = kRowsPerPass % kWarpN == 0 ? loader.b_target + pass * kStageWords * 4
                                                  : loader.filter_target(pass);
    const u32 offset = loader.filter + pass * filter_words(a);
    copy_async<COPY_WORDS * 4>(stage + target, weight + offset,
                               exists && static_cast<int>(loader.stage_row) + pass < channels);
  }
}

// This thread's share of the next stage, whose address in shared memory is `stage`. `weight`
// points to the block's first filter.
__device__ inline void load_stage(const ConvArguments& a, Loader& loader, const u32* weight,
                                  int channels, u32 stage) {
  load_activations(a, loader, stage);
  load_filters(a, loader, weight, channels, stage);
  loader.advance(a);
}
