// Sums of a tile of conv_wgmma_rows -> packed output, two channels at a time.
//
//   dot >= threshold  <=>  2 sum - popc(a) >= t  <=>  sum >= popc(a) / 2 + (t + popc(a) % 2 + 1) /
//   2
//
// (halves rounded down, t as in conv_wgmma_constants.cuh). All of these fit 16 bits, so that one
// addition decides two channels: in each half of 32768 + sum - popc(a) / 2 - (...), the top bit.
// The last term is the table's, for even and odd popc(a).
#pragma once

#include "conv_wgmma_constants.cuh"
#include "conv_wgmma_store.cuh"

struct BitTable {
  // u32 [TILE_N / 2] for even sums and, in other banks, for odd ones.
  static constexpr int kOddBytes = Layout::kClassBytes / 2;
  static constexpr int kLimit = 1 << 14;  // beyond all sums

  static __device__ int limited(int value) {
    return value < -kLimit ? -kLimit : value > kLimit ? kLimit : value;
  }

  // Of two neighbouring channels.
  static __device__ u32 entry(const int (&counted)[2], const int (&threshold)[2], int odd) {
    int least[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      least[i] = limited((least_difference(counted[i], threshold[i]) + odd + 1) >> 1);
    }
    return pair_of(0x8000 - least[0], 0x8000 - least[1]);
  }
};

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

// What a lane stores of every tile: one word, or of more than two words one in four of both rows.
struct BitsEpilogue {
  static constexpr bool kBothRows = kTileWords <= 2;
  static constexpr int kWords = kBothRows ? kTileWords : 4;  // of a row, exchanged together
  static constexpr int kGroups = (kTileWords + kWords - 1) / kWords;

  u32 table;  // this lane's entries
  u32* out;   // its first word of the tile
  int left;   // pixels to the last, from its first of the tile on
  ByteExchange exchange;
  WordMasks masks[kGroups];  // (of kRoomy)

  static __device__ BitsEpilogue of(const Work& work, int first_row) {
    const WgmmaArguments& a = work.a;
    const int lane = threadIdx.x % 4;
    const int half = kBothRows ? lane / kWords : 0;
    const i64 pixel = static_cast<i64>(work.first_tile) * kTileM + first_row + 8 * half;
    BitsEpilogue epilogue;
    epilogue.table = work.shared + Layout::kTable + lane * 16;
    epilogue.out = static_cast<u32*>(a.out) + pixel * row_words(a) +
                   work.channels.first / kWordBits + lane % kWords;
    epilogue.left = half < 2 ? static_cast<int>(a.batch * a.out_height * a.out_width - pixel) : 0;
    epilogue.exchange = ByteExchange::of(lane);
    hold(epilogue.table);
    hold(epilogue.exchange.of_two);
    hold(epilogue.exchange.of_four);
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      if constexpr (kRoomy) epilogue.masks[group] = WordMasks::load(work.shared, group * kWords);
    }
    return epilogue;
  }

  static __device__ i64 row_words(const WgmmaArguments& a) {
    return (a.out_channels + kWordBits - 1) / kWordBits;
  }

  // Of this lane's 8 channels of a word in one row, as bits 0 to 7: whether below the threshold.
  static __device__ u32 below(const Sums& sums, u32 entries, u32 set_pair, int word, int half) {
    const uint4 entry = load_chunk(entries + word * 64);
    const u32 of_pairs[4] = {entry.x, entry.y, entry.z, entry.w};
    u32 decided[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      decided[i] = pair_of(sum_of(sums, word, half, 2 * i), sum_of(sums, word, half, 2 * i + 1)) +
                   of_pairs[i] - set_pair;
    }
    const u32 bits = add_signs(~0u, spread_signs(decided[0], decided[1]), 0x08040201u);
    return add_signs(bits, spread_signs(decided[2], decided[3]), 0x80402010u);
  }

  __device__ void store_word(const Work& work, int half, int group, u32 below) const {
    WordMasks of_group;
    if constexpr (kRoomy) {
      of_group = masks[group];
    } else {
      of_group = WordMasks::load(work.shared, group * kWords);
    }
    if (left > 8 * half && of_group.exists != 0) {
      out[8 * half * row_words(work.a) + group * kWords] =
          (below ^ of_group.toggle) & of_group.exists;
    }
  }

  __device__ void begin(const Work&) {}

  // The block's tiles in turn.
  __device__ void store(const Work& work, const u32 (&border)[2], const Sums& sums) {
    u32 entries[2], set_pair[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int set = sums.values[kSetSum + 2 * half];
      entries[half] = table + border[half] * Layout::kClassBytes + (set & 1) * BitTable::kOddBytes;
      // Both halves: (a multiplication would be distributed over all pairs).
      set_pair[half] = __byte_perm(set >> 1, 0, 0x1010);
    }
    constexpr int kRounds = kBothRows ? 1 : 2 * kGroups;
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      u32 bytes[4] = {};
#pragma unroll
      for (int i = 0; i < (kBothRows ? 2 * kTileWords : kWords); ++i) {
        const int half = kBothRows ? i / kTileWords : round % 2;
        const int word = kBothRows ? i % kTileWords : round / 2 * kWords + i;
        if (word < kTileWords) bytes[i] = below(sums, entries[half], set_pair[half], word, half);
      }
      const u32 joined = __byte_perm(__byte_perm(bytes[0], bytes[1], 0x0040),
                                     __byte_perm(bytes[2], bytes[3], 0x0040), 0x5410);
      store_word(work, round % 2, round / 2, exchange(joined));
    }
    out += work.a.step_words;
    left -= static_cast<int>(work.a.step_pixels);
  }
};
