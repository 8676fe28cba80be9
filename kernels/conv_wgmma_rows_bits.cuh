// Packed output of conv_wgmma_rows: what stays the same from tile to tile stays in registers where
// there are some.
#pragma once

#include "conv_wgmma_bits.cuh"

// Of the word that this lane stores.
struct WordMasks {
  u32 toggle;
  u32 exists;  // 0: no word

  static __device__ WordMasks load(u32 shared, int first_word) {
    constexpr int kLaneWords = kTileWords <= 2 ? kTileWords : 4;
    const int word = first_word + threadIdx.x % 4 % kLaneWords;
    if (word >= kTileWords) return {0, 0};
    return {load_shared(shared + Layout::kToggle + 4 * word),
            load_shared(shared + Layout::kExists + 4 * word)};
  }
};

struct BitsEpilogue {
  static constexpr bool kBothRows = BitShares::kBothRows;
  static constexpr int kWords = BitShares::kWords;
  static constexpr int kGroups = BitShares::kGroups;

  u32 table;   // this lane's entries
  u32* out;    // its first word of the tile
  int left;    // pixels to the last, from its first of the tile on
  u32 second;  // bytes from a word of this lane's first row to that of the other
  ByteExchange exchange;
  WordMasks masks[kGroups];  // (of kRoomy)

  // Once the channels' constants are there.
  __device__ BitsEpilogue(const Work& work, int first_row) {
    const WgmmaArguments& a = work.a;
    const int lane = threadIdx.x % 4;
    const int half = kBothRows ? lane / kWords : 0;
    const int pixel = work.first_tile * kTileM + first_row + 8 * half;
    table = work.shared + Layout::kTable + lane * 16;
    out = static_cast<u32*>(a.out) + static_cast<i64>(pixel) * row_words(a) +
          work.channels.first / kWordBits + lane % kWords;
    second = 8 * 4 * static_cast<u32>(row_words(a));
    left = half < 2 ? static_cast<int>(a.batch * a.out_height * a.out_width) - pixel : 0;
    exchange = ByteExchange::of(lane);
    hold(table);
    if constexpr (!kBothRows) hold(second);
    hold(exchange.of_two);
    hold(exchange.of_four);
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      if constexpr (kRoomy) masks[group] = WordMasks::load(work.shared, group * kWords);
    }
  }

  static __device__ int row_words(const WgmmaArguments& a) {
    return (static_cast<int>(a.out_channels) + kWordBits - 1) / kWordBits;
  }

  __device__ void store_word(const Work& work, int half, int group, u32 below) const {
    WordMasks of_group;
    if constexpr (kRoomy) {
      of_group = masks[group];
    } else {
      of_group = WordMasks::load(work.shared, group * kWords);
    }
    const bool exists = left > 8 * half && of_group.exists != 0;
    store_word_if(exists, reinterpret_cast<u8*>(out + group * kWords) + (half == 0 ? 0u : second),
                  (below ^ of_group.toggle) & of_group.exists);
  }

  __device__ void begin(const Work&) {}

  // The block's tiles in turn.
  __device__ void store(const Work& work, const u32 (&border)[2], const Sums& sums) {
    const int set[2] = {sums.values[kSetSum], sums.values[kSetSum + 2]};
    BitShares::decide(
        sums, BitRows::of(table, border, set), exchange,
        [&](int half, int group, u32 below) { store_word(work, half, group, below); });
    out += work.a.step_words;
    left -= static_cast<int>(work.a.step_pixels);
  }
};
