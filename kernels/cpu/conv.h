// The convolution: strips of output pixels times blocks of output channels, in register tiles.
#pragma once

#include "block_bits.h"
#include "epilogue.h"
#include "plan.h"
#include "residual.h"
#include "strip.h"

namespace BINOP_PATH {

template <class Kernel>
struct Convolution {
  static constexpr int kBlock = Kernel::kLanes * Kernel::kVectors;
  static constexpr int kPixels = Kernel::kPixels;

  using Count = void (*)(const ConvPlan&, const u8* const*, const Rows&, const u8* weights, i32*);

  template <int P, int V>
  static void count(const ConvPlan& plan, const u8* const* pixel, const Rows& rows,
                    const u8* weights, i32* totals) {
    constexpr i64 kBytes = sizeof(typename Kernel::Element);
    typename Kernel::template Counter<P, V> counter(totals);
    for (i64 copy = 0; copy < plan.copies; ++copy) {
      const u8* at = weights;
      for (i64 row = 0; row < rows.high - rows.low; ++row) {
        if constexpr (Kernel::kSkipsEdges) {
          if (rows.left || rows.right) {
            count_between<P, V>(counter, plan, pixel, row * plan.row_step * kBytes, rows, at);
            at += plan.run_length * (V * Kernel::kVectorBytes);
            continue;
          }
        }
        for (i64 run = 0; run < plan.runs; ++run) {
          counter.run(pixel, (row * plan.row_step + run * plan.run_step) * kBytes, at,
                      plan.run_length);
          at += plan.run_length * (V * Kernel::kVectorBytes);
        }
      }
      weights += plan.copy_steps * (V * Kernel::kVectorBytes);
    }
    counter.finish();
  }

  // A kernel row without the first pixel's first tap, and without the last one's last.
  template <int P, int V, class Counter>
  static void count_between(Counter& counter, const ConvPlan& plan, const u8* const* pixel,
                            i64 offset, const Rows& rows, const u8* weights) {
    constexpr i64 kBytes = sizeof(typename Kernel::Element);
    const i64 tap = plan.elements;
    const i64 between = plan.run_length - (rows.left ? tap : 0) - (rows.right ? tap : 0);
    const auto advance = [&](i64 steps) {
      offset += steps * kBytes;
      weights += steps * (V * Kernel::kVectorBytes);
    };
    if (rows.left) {
      counter.template run<1, P>(pixel, offset, weights, tap);
      advance(tap);
    }
    counter.run(pixel, offset, weights, between);
    advance(between);
    if (rows.right) counter.template run<0, P - 1>(pixel, offset, weights, tap);
  }

  template <int V, int... Pixels>
  static Count pick(i64 pixels, std::integer_sequence<int, Pixels...>) {
    static constexpr Count kCounts[] = {&count<Pixels + 1, V>...};
    return kCounts[pixels - 1];
  }

  template <int V = Kernel::kVectors>
  static Count choose(i64 pixels, i64 vectors) {
    if constexpr (V > 1) {
      if (vectors < V) return choose<V - 1>(pixels, vectors);
    }
    return pick<V>(pixels, std::make_integer_sequence<int, kPixels>());
  }

  // A block's weights and the sums of their taps.
  struct Weights {
    const u8* vectors;
    i64 row_bytes;  // of one kernel row
    const i32* sums;
    i64 channels;

    Weights(const ConvCall& call, const Block& block) {
      const ConvPlan& plan = *call.plan;
      const u8* prepared = static_cast<const u8*>(call.prepared);
      vectors = prepared + block.first_vector * plan.steps * Kernel::kVectorBytes;
      row_bytes = plan.kernel_w * plan.elements * block.vectors * Kernel::kVectorBytes;
      channels = block.vectors * Kernel::kLanes;
      sums = reinterpret_cast<const i32*>(prepared + plan.sums_offset) +
             (plan.kernel_h + 1) * (plan.kernel_w + 1) * block.first_vector * Kernel::kLanes;
    }

    // Of the taps above and left of (row, column).
    const i32* sum(const ConvPlan& plan, i64 row, i64 column) const {
      return sums + (row * (plan.kernel_w + 1) + column) * channels;
    }

    // Takes out of the counts what padding added: a clear activation differs from a set weight.
    void correct(const ConvPlan& plan, const Pixel& pixel, const Rows& rows, i32* counts) const {
      const i32* top = sum(plan, rows.low, plan.kernel_w);
      const i32* bottom = sum(plan, rows.high, plan.kernel_w);
      const i32* a = sum(plan, pixel.row->low, pixel.column->low);
      const i32* b = sum(plan, pixel.row->low, pixel.column->high);
      const i32* c = sum(plan, pixel.row->high, pixel.column->low);
      const i32* d = sum(plan, pixel.row->high, pixel.column->high);
      for (i64 i = 0; i < channels; ++i) {
        counts[i] -= (bottom[i] - top[i]) - (d[i] - c[i] - b[i] + a[i]);
      }
    }
  };

  // Calls finish(index in the strip, pixel, counts) for every pixel.
  template <class Finish>
  static void for_pixels(const ConvPlan& plan, const Strip& strip, const Block& block,
                         const Weights& weights, const Finish& finish) {
    // Zero: a word of output bits is made of 32 counts, also where a block has fewer.
    alignas(64) i32 totals[kPixels * kBlock] = {};
    Count count = choose(plan.tile, block.vectors);
    const i64 group = block.group * plan.elements;
    const Rows* rows = strip.rows;
    for (i64 first = 0; first < strip.count; first += plan.tile, ++rows) {
      const Pixel* pixel = strip.pixel + first;
      const i64 pixels = smaller(plan.tile, strip.count - first);
      if (pixels < plan.tile) count = choose(pixels, block.vectors);
      const u8* at[kPixels];
      const i64 skip =
          (rows->low * plan.row_step + group) * static_cast<i64>(sizeof(typename Kernel::Element));
      for (i64 i = 0; i < pixels; ++i) at[i] = pixel[i].at + skip;
      count(plan, at, *rows, weights.vectors + rows->low * weights.row_bytes, totals);
      i32* counts = totals;
      for (i64 i = 0; i < pixels; ++i, counts += weights.channels) {
        if (pixel[i].corrected) weights.correct(plan, pixel[i], *rows, counts);
        finish(first + i, pixel[i], counts);
      }
    }
  }

  // Channels last: a pixel's channels lie side by side.
  template <class Real, class Out>
  static void channels_last(const ConvCall& call, const Strip& strip, const Block& block) {
    const ConvPlan& plan = *call.plan;
    const Weights weights(call, block);
    Scales<Real, kBlock> scales;
    scales.load(plan, *call.pointers, block);
    const i32 per_count = plan.copies == 1 ? 2 : 1;
    Out* out = static_cast<Out*>(call.pointers->out);
    const Norm* norm = call.pointers->norm;
    for_pixels(plan, strip, block, weights, [&](i64, const Pixel& pixel, const i32* counts) {
      alignas(64) Real y[kBlock];
      scales.apply(counts, pixel.taps, per_count, static_cast<int>(weights.channels), y);
      if constexpr (std::is_same_v<Out, float>) {
        if (norm != nullptr) normalize(*norm, block.first_channel, block.channels, y);
      }
      store(out + pixel.position * plan.out_channels + block.first_channel, y, block.channels);
    });
  }

  // Contiguous: a channel's pixels lie side by side. The block is transposed in the cache.
  template <class Real, class Out>
  static void channels_first(const ConvCall& call, const Strip& strip, const Block& block) {
    const ConvPlan& plan = *call.plan;
    const Weights weights(call, block);
    Scales<Real, kBlock> scales;
    scales.load(plan, *call.pointers, block);
    const i32 per_count = plan.copies == 1 ? 2 : 1;
    alignas(64) Real stage[kMostStrip * kBlock];
    for_pixels(plan, strip, block, weights, [&](i64 i, const Pixel& pixel, const i32* counts) {
      scales.apply(counts, pixel.taps, per_count, static_cast<int>(weights.channels),
                   stage + i * kBlock);
    });
    Out* out = static_cast<Out*>(call.pointers->out);
    const i64 per_image = plan.out_h * plan.out_w;
    for (i64 first = 0; first < strip.count;) {
      const Pixel& pixel = strip.pixel[first];
      const i64 count = smaller(strip.count - first, per_image - pixel.index);
      Out* image = out + (pixel.image * plan.out_channels + block.first_channel) * per_image;
      put_channels(stage + first * kBlock, count, block.channels, image + pixel.index, per_image);
      first += count;
    }
  }

  template <class Out>
  static void put_channels(const double* stage, i64 pixels, i64 channels, Out* out, i64 pitch) {
    for (i64 c = 0; c < channels; ++c) {
      for (i64 p = 0; p < pixels; ++p) out[c * pitch + p] = stage[p * kBlock + c];
    }
  }

  template <class Out>
  static void put_channels(const float* stage, i64 pixels, i64 channels, Out* out, i64 pitch) {
    alignas(64) float turned[8 * kMostStrip];
    for (i64 c = 0; c < channels; c += 8) {
      i64 p = 0;
      for (; p + 8 <= pixels; p += 8) {
        transpose(stage + p * kBlock + c, kBlock, turned + p, kMostStrip);
      }
      for (; p < pixels; ++p) {
        for (int i = 0; i < 8; ++i) turned[i * kMostStrip + p] = stage[p * kBlock + c + i];
      }
      const i64 rows = smaller<i64>(8, channels - c);
      for (i64 i = 0; i < rows; ++i) {
        store(out + (c + i) * pitch, turned + i * kMostStrip, pixels);
      }
    }
  }

  static void bits(const ConvCall& call, const Strip& strip, const Block& block) {
    const ConvPlan& plan = *call.plan;
    const Weights weights(call, block);
    Thresholds<kBlock> thresholds;
    thresholds.load(plan, *call.pointers, block);
    const int doubled = plan.copies == 1 ? 1 : 0;
    const BlockBits out(plan, bits_of(call), block);
    for_pixels(plan, strip, block, weights, [&](i64, const Pixel& pixel, const i32* counts) {
      out.put(pixel, [&](i64 w, i64 left) {
        const u32 word = thresholds.word(counts, pixel.taps, doubled, w);
        return left < kWordBits ? word & tail_mask(left) : word;
      });
    });
  }

  // A residual sum, channels last, and its signs.
  template <class Out>
  static void sums(const ConvCall& call, const Strip& strip, const Block& block) {
    const ConvPlan& plan = *call.plan;
    const Weights weights(call, block);
    ResidualSum<Out, kBlock> sum;
    sum.load(plan, *call.pointers, block);
    Out* out = static_cast<Out*>(call.pointers->out);
    const BlockBits signs(plan, bits_of(call), block);
    for_pixels(plan, strip, block, weights, [&](i64, const Pixel& pixel, const i32* counts) {
      alignas(64) u32 decided[kBlock];
      Out* y = out + pixel.position * plan.out_channels + block.first_channel;
      sum.apply(plan, pixel, static_cast<int>(weights.channels), counts, decided, y);
      signs.put(pixel, [&](i64 w, i64 left) { return sum.sign_word(decided, y, w, left); });
    });
  }

  static u32* bits_of(const ConvCall& call) {
    const ConvPointers& pointers = *call.pointers;
    return pointers.residual != nullptr ? pointers.residual->signs
                                        : static_cast<u32*>(pointers.out);
  }

  // Blocks that share words set their bits in them one after the other.
  static void clear_bits(const ConvCall& call, const Strip& strip) {
    const i64 pitch = divide_up(call.plan->out_channels, kWordBits);
    for (i64 i = 0; i < strip.count; ++i) {
      std::memset(bits_of(call) + strip.pixel[i].position * pitch, 0,
                  static_cast<size_t>(pitch) * 4);
    }
  }

  template <class Real, class Out>
  static void floats(const ConvCall& call, const Strip& strip, const Block& block) {
    if constexpr (!std::is_same_v<Out, double>) {
      if (call.pointers->residual != nullptr) return sums<Out>(call, strip, block);
    }
    if (call.plan->spec.out_channels_last) {
      channels_last<Real, Out>(call, strip, block);
    } else {
      channels_first<Real, Out>(call, strip, block);
    }
  }

  static void one(const ConvCall& call, const Strip& strip, const Block& block) {
    const ConvSpec& spec = call.plan->spec;
    switch (spec.out_dtype) {
      case kFloat16:
        return floats<float, Float16>(call, strip, block);
      case kBfloat16:
        return floats<float, Bfloat16>(call, strip, block);
      case kFloat32:
        return floats<float, float>(call, strip, block);
      case kFloat64:
        if (spec.x.dtype == kFloat64) return floats<double, double>(call, strip, block);
        return floats<float, double>(call, strip, block);
      default:
        return bits(call, strip, block);
    }
  }

  static void convolve(const ConvCall& call, i64 part, i64 parts) {
    const ConvPlan& plan = *call.plan;
    const i64 pixels = call.images * plan.out_h * plan.out_w;
    // Blocks that share words of the output stay with one thread.
    const bool bits = plan.spec.out_dtype == kBits || call.pointers->residual != nullptr;
    const i64 blocks = plan.words_apart || !bits ? plan.blocks : 1;
    i64 length = kMostStrip;
    // Four items a thread at least, if the tiles allow it.
    while (length > 2 * plan.tile && divide_up(pixels, length) * blocks < 4 * parts) length /= 2;
    const Share items(divide_up(pixels, length) * blocks, part, parts);
    for (i64 item = items.begin; item < items.end;) {
      const i64 index = item / blocks;
      const i64 end = smaller(items.end, (index + 1) * blocks);
      const Strip strip(call, index * length, smaller(length, pixels - index * length));
      if (blocks != plan.blocks) {
        clear_bits(call, strip);
        for (i64 b = 0; b < plan.blocks; ++b) one(call, strip, block_at(plan, b));
      } else {
        for (i64 b = item % blocks; item + b - item % blocks < end; ++b) {
          one(call, strip, block_at(plan, b));
        }
      }
      item = end;
    }
  }
};

}  // namespace BINOP_PATH
