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

template <class Bits>
inline bool passes_one(Bits v, const Predicate& predicate) {
  return static_cast<Bits>(v & static_cast<Bits>(predicate.kept)) <=
             static_cast<Bits>(predicate.most) ||
         v == static_cast<Bits>(predicate.also);
}

// 32 consecutive values. Paths overload it where compilers do not find their best code.
template <class Bits>
inline u32 full_word(const Bits* at, const Predicate& predicate) {
  u32 word = 0;
  for (int i = 0; i < kWordBits; ++i) {
    word |= passes_one(at[i], predicate) ? kWord.bit[i] : 0u;
  }
  return word;
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
