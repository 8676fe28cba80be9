// Where a block's bits go in packed output.
#pragma once

#include "plan.h"
#include "strip.h"
#include "types.h"

namespace BINOP_PATH {

struct BlockBits {
  u32* first;  // of the first pixel
  i64 pitch;
  i64 channels;
  int shift;
  bool apart;

  BlockBits(const ConvPlan& plan, u32* out, const Block& block)
      : first(out + block.first_channel / kWordBits),
        pitch(divide_up(plan.out_channels, kWordBits)),
        channels(block.channels),
        shift(static_cast<int>(block.first_channel % kWordBits)),
        apart(plan.words_apart != 0) {}

  // word(index, channels left): with no bit behind these channels.
  template <class Word>
  void put(const Pixel& pixel, const Word& word) const {
    u32* out = first + pixel.position * pitch;
    for (i64 w = 0; w * kWordBits < channels; ++w) {
      const i64 left = channels - w * kWordBits;
      const u32 bits = word(w, left);
      if (apart) {
        out[w] = bits;
        continue;
      }
      out[w] |= bits << shift;
      if (shift != 0 && left > kWordBits - shift) out[w + 1] |= bits >> (kWordBits - shift);
    }
  }
};

}  // namespace BINOP_PATH
