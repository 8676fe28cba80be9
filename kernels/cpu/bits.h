// Words of bits: from values by a predicate, and to the elements that a path computes with.
#pragma once

#include "types.h"

namespace BINOP_PATH {

struct WordBits {
  u32 bit[kWordBits];
  constexpr WordBits() : bit() {
    for (int i = 0; i < kWordBits; ++i) bit[i] = 1u << i;
  }
};
constexpr WordBits kWord;

// 0 or 1. No short circuit: random signs would mispredict its branch.
template <class Bits>
inline u32 passes_one(Bits v, const Predicate& predicate) {
  const Bits kept = v & static_cast<Bits>(predicate.kept);
  return static_cast<u32>(kept <= static_cast<Bits>(predicate.most)) |
         static_cast<u32>(v == static_cast<Bits>(predicate.also));
}

// 32 consecutive values. Paths overload it where compilers do not find their best code.
template <class Bits>
inline u32 full_word(const Bits* at, const Predicate& predicate) {
  u32 word = 0;
  for (int i = 0; i < kWordBits; ++i) {
    word |= passes_one(at[i], predicate) != 0 ? kWord.bit[i] : 0u;
  }
  return word;
}

// `count` bits of a word that is not full, from `first` on.
template <class Bits>
inline u32 some_bits(const Bits* at, i64 first, i64 count, const Predicate& predicate) {
  u32 word = 0;
  for (i64 i = first; i < count; ++i) {
    word |= passes_one(at[i], predicate) << i;
  }
  return word;
}

// Fewer than 32 consecutive values. Overloaded as full_word is.
template <class Bits>
inline u32 part_word(const Bits* at, i64 count, const Predicate& predicate) {
  return some_bits(at, 0, count, predicate);
}

// A word as 8 bytes, each with one nibble in its high half: the offsets of rows of 16 bytes.
inline u64 nibbles(u32 word) {
  u64 spread = word;
  spread = (spread | spread << 16) & 0x0000FFFF0000FFFFull;
  spread = (spread | spread << 8) & 0x00FF00FF00FF00FFull;
  spread = (spread | spread << 4) & 0x0F0F0F0F0F0F0F0Full;
  return spread << 4;
}

// Where a word of 32 channels goes: to a word, or to up to 8 nibbles.
struct Target {
  i64 element_bytes;
  i64 steps;  // nibbles of this word

  Target(i64 bytes, i64 elements, i64 word)
      : element_bytes(bytes), steps(smaller<i64>(8, elements - 8 * word)) {}

  i64 bytes_before(i64 word) const { return word * (element_bytes == 4 ? 4 : 8); }

  void put(void* at, u32 word) const {
    if (element_bytes == 4) {
      std::memcpy(at, &word, 4);
      return;
    }
    const u64 spread = nibbles(word);
    if (steps == 8) {
      std::memcpy(at, &spread, 8);
    } else {
      for (i64 i = 0; i < steps; ++i) static_cast<u8*>(at)[i] = static_cast<u8>(spread >> 8 * i);
    }
  }
};

}  // namespace BINOP_PATH
