// Packed output of a tile: bit_pairs.cuh, and the words of a warp's lanes.
#pragma once

#include "bit_pairs.cuh"
#include "conv_wgmma_constants.cuh"
#include "conv_wgmma_store.cuh"

struct BitTable {
  // u32 [TILE_N / 2] for even sums and, in other banks, for odd ones.
  static constexpr int kOddBytes = Layout::kClassBytes / 2;

  // Of two neighbouring channels.
  static __device__ u32 entry(const int (&counted)[2], const int (&threshold)[2], int odd) {
    return pair_of(table_half(counted[0], threshold[0], odd),
                   table_half(counted[1], threshold[1], odd));
  }
};

// The entries of a border class for two neighbouring channels; `thresholds` is where theirs lie.
template <class Out>
__device__ inline void write_entries(u32 of_class, int channel, const int (&counted)[2],
                                     u32 thresholds) {
  if constexpr (Channel<Out>::kPacked) {
    u32 threshold[2];
    load_pair(threshold[0], threshold[1], thresholds + 4 * channel);
    const int both[2] = {static_cast<int>(threshold[0]), static_cast<int>(threshold[1])};
    store_shared(of_class + 2 * channel, BitTable::entry(counted, both, 0));
    store_shared(of_class + 2 * channel + BitTable::kOddBytes, BitTable::entry(counted, both, 1));
  } else if constexpr (NARROW) {
    store_shared(of_class + 2 * channel, narrow_entries(counted));
  } else {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      store_shared(of_class + 4 * (channel + k), __float_as_uint(float_entry(counted[k])));
    }
  }
}

// What decides the bits of this lane's two rows.
struct BitRows {
  u32 entries[2];
  u32 set_pair[2];

  // `table` is where this lane's entries of the first class lie.
  static __device__ BitRows of(u32 table, const u32 (&border)[2], const int (&set)[2]) {
    BitRows rows;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      rows.entries[half] =
          table + border[half] * Layout::kBorderBytes + (set[half] & 1) * BitTable::kOddBytes;
      rows.set_pair[half] = half_set_pair(set[half]);
    }
    return rows;
  }

  // Of this lane's 8 channels of a word in one row, as bits 0 to 7: whether below the threshold.
  __device__ u32 below(const Sums& sums, int word, int half) const {
    const uint4 entry = load_chunk(entries[half] + word * 64);
    const u32 of_pairs[4] = {entry.x, entry.y, entry.z, entry.w};
    u32 decided[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      decided[i] = pair_of(sum_of(sums, word, half, 2 * i), sum_of(sums, word, half, 2 * i + 1)) +
                   of_pairs[i] - set_pair[half];
    }
    return below_threshold(decided);
  }
};

// How a tile's words are shared out: a lane stores one word of one of the rows, or of more than two
// words one in four of both.
struct BitShares {
  static constexpr bool kBothRows = kTileWords <= 2;
  static constexpr int kWords = kBothRows ? kTileWords : 4;  // of a row, exchanged together
  static constexpr int kGroups = (kTileWords + kWords - 1) / kWords;
  static constexpr int kRounds = kBothRows ? 1 : 2 * kGroups;

  // Calls store(half, group, word) for what this lane stores; of kBothRows, half is 0.
  template <class Store>
  static __device__ void decide(const Sums& sums, const BitRows& rows, const ByteExchange& exchange,
                                Store store) {
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      u32 bytes[4] = {};
#pragma unroll
      for (int i = 0; i < (kBothRows ? 2 * kTileWords : kWords); ++i) {
        const int half = kBothRows ? i / kTileWords : round % 2;
        const int word = kBothRows ? i % kTileWords : round / 2 * kWords + i;
        if (word < kTileWords) bytes[i] = rows.below(sums, word, half);
      }
      const u32 joined = __byte_perm(__byte_perm(bytes[0], bytes[1], 0x0040),
                                     __byte_perm(bytes[2], bytes[3], 0x0040), 0x5410);
      store(round % 2, round / 2, exchange(joined));
    }
  }
};
