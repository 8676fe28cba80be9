// Packed operands in the order in which the convolution reads them: activations with padding
// around them, weights interleaved over output channels.
#pragma once

#include "bits.h"
#include "plan.h"

namespace BINOP_PATH {

template <class Kernel>
struct Operands {
  using Element = typename Kernel::Element;
  static constexpr i64 kBytes = sizeof(Element);
  static constexpr int kLanes = Kernel::kLanes;

  // Padding counts as a clear bit for -1 and 0 (what 0 adds is taken out again), a set one for +1.
  static void pad(const ConvPlan& plan, i64 images, void* activations, i64 part, i64 parts) {
    const i64 top = plan.spec.padding[0];
    const i64 left = plan.spec.padding[1];
    if (top == 0 && left == 0) return;
    const i64 height = plan.height + 2 * top;
    const i64 width = plan.width + 2 * left;
    const Share rows(images * height, part, parts);
    for (i64 index = rows.begin; index < rows.end; ++index) {
      const i64 row = index % height;
      Element* at = static_cast<Element*>(activations) + index * plan.row_pitch;
      if (row < top || row >= top + plan.height) {
        fill(plan, at, width);
      } else {
        fill(plan, at, left);
        fill(plan, at + (left + plan.width) * plan.pixel_pitch, left);
      }
    }
  }

  static void fill(const ConvPlan& plan, Element* at, i64 pixels) {
    const i64 count = pixels * plan.pixel_pitch;
    if (plan.spec.pad_value != 1) {
      std::memset(at, 0, static_cast<size_t>(count * kBytes));
      return;
    }
    for (i64 w = 0; w < plan.words; ++w) {
      const Target target(kBytes, plan.elements, w);
      const u32 word = w + 1 < plan.words ? ~0u : tail_mask(plan.group_channels);
      u8* to = reinterpret_cast<u8*>(at) + target.bytes_before(w);
      for (i64 i = 0; i < pixels * plan.groups; ++i) {
        target.put(to + i * plan.elements * kBytes, word);
      }
    }
  }

  // Packed x, its tails cleared.
  static void expand(const ConvPlan& plan, const void* packed, i64 first_image, i64 images,
                     void* activations, i64 part, i64 parts) {
    pad(plan, images, activations, part, parts);
    const i64 groups = plan.width * plan.groups;  // of a row
    const Share rows(images * plan.height, part, parts);
    for (i64 index = rows.begin; index < rows.end; ++index) {
      const i64 image = index / plan.height;
      const i64 row = index - image * plan.height + plan.spec.padding[0];
      const u32* from = static_cast<const u32*>(packed) +
                        (first_image * plan.height + index) * groups * plan.words;
      Element* to = static_cast<Element*>(activations) + image * plan.image_pitch +
                    row * plan.row_pitch + plan.spec.padding[1] * plan.pixel_pitch;
      if (plan.group_channels % kWordBits == 0) {
        expand_words(from, groups * plan.words, to);
      } else {
        expand_groups(plan, from, groups, to);
      }
    }
  }

  static void expand_words(const u32* from, i64 words, void* to) {
    if (kBytes == 4) {
      std::memcpy(to, from, static_cast<size_t>(words) * 4);
      return;
    }
    u8* bytes = static_cast<u8*>(to);
    for (i64 i = 0; i < words; ++i) {
      const u64 spread = nibbles(from[i]);
      std::memcpy(bytes + 8 * i, &spread, 8);
    }
  }

  // With a tail in every group's last word.
  static void expand_groups(const ConvPlan& plan, const u32* from, i64 groups, Element* to) {
    for (i64 w = 0; w < plan.words; ++w) {
      const Target target(kBytes, plan.elements, w);
      const u32 kept = w + 1 < plan.words ? ~0u : tail_mask(plan.group_channels);
      u8* bytes = reinterpret_cast<u8*>(to) + target.bytes_before(w);
      for (i64 i = 0; i < groups; ++i) {
        target.put(bytes + i * plan.elements * kBytes, from[i * plan.words + w] & kept);
      }
    }
  }

  // Packed weights, one block after the other; then the sums of their taps.
  static void prepare(const ConvPlan& plan, const void* packed, void* prepared, i64 part,
                      i64 parts) {
    const Share blocks(plan.blocks, part, parts);
    for (i64 index = blocks.begin; index < blocks.end; ++index) {
      const Block block = block_at(plan, index);
      const u32* filters = static_cast<const u32*>(packed) +
                           block.first_channel * plan.kernel_h * plan.kernel_w * plan.own_words;
      interleave(plan, block, filters, static_cast<u8*>(prepared));
      if (plan.with_sums) sum_taps(plan, block, filters, static_cast<u8*>(prepared));
    }
  }

  // A lane's word of one tap, its group's channels among those of the groups that it is joined
  // with.
  static u32 weight(const ConvPlan& plan, const Block& block, const u32* filters, i64 copy,
                    i64 lane, i64 tap, i64 word) {
    const i64 taps = plan.kernel_h * plan.kernel_w;
    const u32* own = filters + (lane * taps + tap) * plan.own_words;
    const u32 kept = word + 1 < plan.words ? ~0u : tail_mask(plan.group_channels);
    if (plan.copies == 1) return own[word] & kept;
    const i64 channel = block.first_channel + lane;
    const i64 first = channel / plan.own_outputs % plan.joined * plan.own_channels;
    u32 bits = 0;
    for (i64 i = 0; i < kWordBits; ++i) {
      const i64 c = word * kWordBits + i - first;
      const bool mine = c >= 0 && c < plan.own_channels;
      const u32 bit = mine ? own[c / kWordBits] >> (c % kWordBits) & 1u : copy == 0 ? 1u : 0u;
      bits |= bit << i;
    }
    return bits & kept;
  }

  static void interleave(const ConvPlan& plan, const Block& block, const u32* filters,
                         u8* prepared) {
    const i64 lanes = block.vectors * kLanes;
    u8* to = prepared + block.first_vector * plan.steps * Kernel::kVectorBytes;
    u32 column[kLanes * Kernel::kVectors];
    const i64 taps = plan.kernel_h * plan.kernel_w;
    for (i64 index = 0; index < plan.copies * taps; ++index) {
      const i64 copy = index / taps;
      const i64 tap = index - copy * taps;
      for (i64 w = 0; w < plan.words; ++w) {
        for (i64 lane = 0; lane < lanes; ++lane) {
          column[lane] =
              lane < block.channels ? weight(plan, block, filters, copy, lane, tap, w) : 0u;
        }
        to = put_column(column, lanes, smaller<i64>(8, plan.elements - 8 * w), to);
      }
    }
  }

  // A word of every lane; `steps` of its nibbles where elements are nibbles.
  static u8* put_column(const u32* column, i64 lanes, i64 steps, u8* to) {
    if (kBytes == 4) {
      std::memcpy(to, column, static_cast<size_t>(lanes) * 4);
      return to + lanes * 4;
    }
    for (i64 step = 0; step < steps; ++step) {
      for (i64 lane = 0; lane < lanes; ++lane) {
        to[lane] = static_cast<u8>(column[lane] >> (4 * step) & 15u);
      }
      to += lanes;
    }
    return to;
  }

  // sums[i][j][lane]: set bits (of all copies) of all taps (row, column) with row < i and column <
  // j.
  static void sum_taps(const ConvPlan& plan, const Block& block, const u32* filters, u8* prepared) {
    const i64 lanes = block.vectors * kLanes;
    const i64 height = plan.kernel_h + 1;
    const i64 width = plan.kernel_w + 1;
    i32* sums = reinterpret_cast<i32*>(prepared + plan.sums_offset) +
                height * width * block.first_vector * kLanes;
    for (i64 i = 0; i < height; ++i) {
      for (i64 j = 0; j < width; ++j) {
        i32* here = sums + (i * width + j) * lanes;
        for (i64 lane = 0; lane < lanes; ++lane) {
          if (i == 0 || j == 0 || lane >= block.channels) {
            here[lane] = 0;
            continue;
          }
          const i32* above = here - width * lanes;
          here[lane] = here[lane - lanes] + above[lane] - above[lane - lanes];
          const i64 tap = (i - 1) * plan.kernel_w + j - 1;
          for (i64 w = 0; w < plan.copies * plan.words; ++w) {
            const i64 copy = w / plan.words;
            const i64 word = w - copy * plan.words;
            here[lane] += __builtin_popcount(weight(plan, block, filters, copy, lane, tap, word));
          }
        }
      }
    }
  }
};

}  // namespace BINOP_PATH
