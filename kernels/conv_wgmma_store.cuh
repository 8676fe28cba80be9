// Sums of a tile of conv_wgmma -> output.
//
// Integers become floats for nothing: the bits of a small integer are a subnormal float, that
// integer times 2**-149, and one fused multiply-add scales it and adds the channel's constant,
// exactly. Floating-point adds run at twice the rate of integer ones.
//
// Stands after the tile header of its kernel, which defines WgmmaArguments, Layout,
// kColumns and kSpareRegisters.
#pragma once

#include "byte_exchange.cuh"
#include "conv_wgmma_constants.cuh"

constexpr int kTileWords = TILE_N / kWordBits;
constexpr int kLaneChannels = 8;  // consecutive channels that a lane holds of every 32

using Sums = ProductSums<kColumns>;

// The two rows of this lane (8 apart).
struct LaneRows {
  i64 first;      // pixel of the warp
  int pixel[2];   // negative: none
  u32 border[2];  // times Layout::kBorderBytes: where their classes lie in the table
  int set[2];     // popc(a)

  // No index that the compiler does not know: the array would leave its registers.
  __device__ int pixel_of(int half) const { return half == 0 ? pixel[0] : pixel[1]; }
  __device__ bool exists(int half) const { return pixel_of(half) >= 0; }
};

// sum * 2**-22 + addend, exact for sum below 2**23.
__device__ inline float scale_and_add(int sum, float addend) {
  return multiply_add(__int_as_float(sum), 0x1p127f, addend);
}

struct LaneValues {
  float values[kLaneChannels];

  static __device__ LaneValues load(u32 address) {
    LaneValues loaded;
#pragma unroll
    for (int i = 0; i < kLaneChannels; i += 4) {
      const float4 part = load_floats(address + 4 * i);
      loaded.values[i] = part.x;
      loaded.values[i + 1] = part.y;
      loaded.values[i + 2] = part.z;
      loaded.values[i + 3] = part.w;
    }
    return loaded;
  }
};

// What a border class adds to 8 channels; `channel` is their first.
struct ClassValues {
  static __device__ u32 at(u32 shared, u32 border, int channel) {
    return shared + Layout::kTable + border * Layout::kBorderBytes + (NARROW ? 2 : 4) * channel;
  }

#if NARROW
  u32 pairs[kLaneChannels / 2];

  static __device__ ClassValues load(u32 address) {
    const uint4 chunk = load_chunk(address);
    return {{chunk.x, chunk.y, chunk.z, chunk.w}};
  }

  __device__ void load_if(bool wanted, u32 address) { load_chunk_if(wanted, pairs, address); }

  __device__ float value(int i) const {
    return __uint_as_float(__byte_perm(pairs[i / 2], 0x3F00u, i % 2 == 0 ? 0x5410 : 0x5432));
  }
#else
  LaneValues all;

  static __device__ ClassValues load(u32 address) { return {LaneValues::load(address)}; }

  __device__ void load_if(bool wanted, u32 address) {
#pragma unroll
    for (int i = 0; i < kLaneChannels; i += 4) {
      u32(&four)[4] = reinterpret_cast<u32(&)[4]>(all.values[i]);
      load_chunk_if(wanted, four, address + 4 * i);
    }
  }

  __device__ float value(int i) const { return all.values[i]; }
#endif
};

// What a row's popc(a) adds to its dot products.
__device__ inline float row_value(int set) {
  return static_cast<float>(-2 * set) - (NARROW ? kNarrowOffset : 0.0f);
}

// This lane's sum of channel i (of its 8) of every 32: see column_of.
__device__ inline int sum_of(const Sums& sums, int word, int half, int i) {
  return sums.values[(word * 4 + i / 2) * 4 + half * 2 + i % 2];
}

// ---- packed output ----

__device__ inline void store_word(const WgmmaArguments& a, const Channels& channels, u32 shared,
                                  const LaneRows& rows, int half, int word, u32 below) {
  if (!rows.exists(half) || word * kWordBits >= channels.count) return;
  const u32 toggle = load_shared(shared + Layout::kToggle + 4 * word);
  const u32 exists = load_shared(shared + Layout::kExists + 4 * word);
  const i64 words = (a.out_channels + kWordBits - 1) / kWordBits;
  static_cast<u32*>(
      a.out)[static_cast<i64>(rows.pixel_of(half)) * words + channels.first / kWordBits + word] =
      (below ^ toggle) & exists;
}

// The constants of 8 channels are loaded before those that came before them are used: shared memory
// answers late. Loads stay on their side of this barrier, which is one for the compiler: otherwise
// it puts each load where its values are needed, or so many at once that it spills.
__device__ inline void hold_loads() { __syncwarp(); }

// ---- float output ----

// The exact dot product, of what scale_and_add makes of a sum and its table entry.
__device__ inline float dot_of(float scaled, float of_row) {
  return multiply_add(scaled, 0x1p24f, of_row);
}

// What finishes 8 channels.
struct ChannelValues {
  LaneValues alpha;
  LaneValues addend;  // of BIAS

  // `constants` is where those of this lane begin.
  static __device__ ChannelValues load(u32 constants) {
    ChannelValues loaded;
    loaded.alpha = LaneValues::load(constants + Layout::kAlpha);
    if constexpr (BIAS) loaded.addend = LaneValues::load(constants + Layout::kAddend);
    return loaded;
  }

  // (To add -0.0, which stands for no bias, changes nothing.)
  __device__ float finish(int i, float dot) const {
    const float product = __fmul_rn(alpha.values[i], dot);
    return BIAS ? __fadd_rn(product, addend.values[i]) : product;
  }
};

// Channels innermost: 8 of one pixel, of which `count` exist.
template <class Out>
__device__ inline void store_channels(typename Out::Bits* out, int count, const LaneValues& y) {
  using Bits = typename Out::Bits;
  if constexpr (STORES == kWide) {
    if (count <= 0) return;
    if constexpr (sizeof(Bits) == 2) {
      store_vector(out, Out::pair_from_floats(y.values[0], y.values[1]),
                   Out::pair_from_floats(y.values[2], y.values[3]),
                   Out::pair_from_floats(y.values[4], y.values[5]),
                   Out::pair_from_floats(y.values[6], y.values[7]));
    } else {
#pragma unroll
      for (int i = 0; i < kLaneChannels; i += 4) {
        store_vector(out + i, Out::from_float(y.values[i]), Out::from_float(y.values[i + 1]),
                     Out::from_float(y.values[i + 2]), Out::from_float(y.values[i + 3]));
      }
    }
  } else {
#pragma unroll
    for (int i = 0; i < kLaneChannels; ++i) {
      if (i < count) out[i] = Out::from_float(y.values[i]);
    }
  }
}

// Contiguous output: where this lane stores, in channel 0 of the block.
template <class Out>
struct LanePixels {
  using Bits = typename Out::Bits;

  Bits* to;      // its first pixel
  int existing;  // pixels from there to the last of all
  int left;      // and to the end of their image

  static __device__ LanePixels at(const WgmmaArguments& a, const Channels& channels, i64 first) {
    const i64 plane = a.out_height * a.out_width;
    const i64 image = divide(first, plane);
    const i64 position = first - image * plane;
    return {
        static_cast<Bits*>(a.out) + (image * a.out_channels + channels.first) * plane + position,
        static_cast<int>(a.batch * plane - first), static_cast<int>(plane - position)};
  }

  __device__ Bits* channel(const WgmmaArguments& a, int index) const {
    return to + static_cast<i64>(index) * (a.out_height * a.out_width);
  }
};

// Two-byte values are transposed within the warp, in blocks of 8 channels by 8 pixels, which leaves
// a lane two neighbouring pixels of a channel in both of its rows, 8 pixels apart.
template <class Out>
struct PixelPairs {
  using Bits = typename Out::Bits;

  u32 pairs[2];

  // Whether four pixels in a row are of one image, and aligned.
  static __device__ bool come_in_fours(const WgmmaArguments& a) {
    return a.out_height * a.out_width % 4 == 0;
  }

  // This lane's first pixel, from the warp's.
  static __device__ int first(bool in_fours) {
    const int lane = threadIdx.x % 32;
    return in_fours ? lane % 2 * 8 + lane % 4 / 2 * 4 : lane % 4 * 2;
  }

  // To a channel, where one store is to have all 16 pixels of the warp, 32 bytes. Of two lanes that
  // hold four of a row, one takes those of the first row and the other those of the second.
  __device__ void store_four(const WgmmaArguments& a, const LanePixels<Out>& pixels, int channel,
                             bool exists) const {
    const bool second = threadIdx.x % 2 != 0;
    const u32 got = __shfl_xor_sync(kAllLanes, second ? pairs[0] : pairs[1], 1);
    if (!exists || pixels.existing <= 0) return;
    *reinterpret_cast<uint2*>(pixels.channel(a, channel)) =
        second ? make_uint2(got, pairs[1]) : make_uint2(pairs[0], got);
  }

  // One after the other, each store with pixels that are close.
  __device__ void store_each(const WgmmaArguments& a, const LanePixels<Out>& pixels,
                             int channel) const {
    const i64 plane = a.out_height * a.out_width;
    Bits* to = pixels.channel(a, channel);
    int end = pixels.left;  // of the image
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int apart = i / 2 * 8 + i % 2;
      for (; apart >= end; end += static_cast<int>(plane)) to += (a.out_channels - 1) * plane;
      const u32 pair = pairs[i / 2];
      if (apart < pixels.existing) to[apart] = static_cast<Bits>(i % 2 == 0 ? pair : pair >> 16);
    }
  }
};

// With few registers to spare the compiler loads constants where it can.
constexpr bool kLoadAhead = kSpareRegisters >= (BIAS ? 96 : 80);

// Both rows of this lane use the same constants, which is what shared memory is asked least for: a
// register of them costs a cycle of the multiprocessor for each warp. Only what a border adds to a
// row is loaded again, where the other row has another border.
template <class Out>
__device__ inline void store_floats(const WgmmaArguments& a, const Channels& channels, u32 shared,
                                    const LaneRows& rows, const Sums& sums) {
  constexpr int kWordBytes = 4 * kWordBits;
  constexpr int kClassWordBytes = (NARROW ? 2 : 4) * kWordBits;
  const int first = threadIdx.x % 4 * kLaneChannels;
  const u32 constants = shared + 4 * first;
  const u32 of_class[2] = {ClassValues::at(shared, rows.border[0], first),
                           ClassValues::at(shared, rows.border[1], first)};
  const bool differ = rows.border[0] != rows.border[1];
  ClassValues next_counted = ClassValues::load(of_class[0]);
  ChannelValues next_channels = ChannelValues::load(constants);
#pragma unroll
  for (int word = 0; word < kTileWords; ++word) {
    ClassValues counted = next_counted;
    const ChannelValues of_channels = next_channels;
    if (!kLoadAhead) hold_loads();
    if (word + 1 < kTileWords) {
      next_counted = ClassValues::load(of_class[0] + (word + 1) * kClassWordBytes);
      next_channels = ChannelValues::load(constants + (word + 1) * kWordBytes);
    }
    if (kLoadAhead) hold_loads();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      LaneValues y;
#pragma unroll
      for (int i = 0; i < kLaneChannels; ++i) {
        y.values[i] = scale_and_add(sum_of(sums, word, half, i), counted.value(i));
      }
      if (half == 0) counted.load_if(differ, of_class[1] + word * kClassWordBytes);
      const float of_row = row_value(rows.set[half]);
#pragma unroll
      for (int i = 0; i < kLaneChannels; ++i) {
        y.values[i] = of_channels.finish(i, dot_of(y.values[i], of_row));
      }
      if (rows.exists(half)) {
        const int channel = word * kWordBits + first;
        auto* out = static_cast<typename Out::Bits*>(a.out);
        out += static_cast<i64>(rows.pixel_of(half)) * a.out_channels + channels.first + channel;
        store_channels<Out>(out, channels.count - channel, y);
      }
    }
  }
}

// Eight channels of one of this lane's rows.
__device__ inline LaneValues finish_channels(const Sums& sums, int word, int half,
                                             const ClassValues& counted,
                                             const ChannelValues& channels, float of_row) {
  LaneValues y;
#pragma unroll
  for (int i = 0; i < kLaneChannels; ++i) {
    const float scaled = scale_and_add(sum_of(sums, word, half, i), counted.value(i));
    y.values[i] = channels.finish(i, dot_of(scaled, of_row));
  }
  return y;
}

// Contiguous output of four-byte values: a lane stores those that it has, one row after the other.
template <class Out>
__device__ inline void store_pixels(const WgmmaArguments& a, const Channels& channels, u32 shared,
                                    const LaneRows& rows, const Sums& sums) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float of_row = row_value(rows.set[half]);
    const auto pixel = LanePixels<Out>::at(a, channels, rows.first + 8 * half + lane / 4);
#pragma unroll
    for (int word = 0; word < kTileWords; ++word) {
      hold_loads();
      const int channel = word * kWordBits + lane % 4 * kLaneChannels;
      const ClassValues counted =
          ClassValues::load(ClassValues::at(shared, rows.border[half], channel));
      const LaneValues y = finish_channels(sums, word, half, counted,
                                           ChannelValues::load(shared + 4 * channel), of_row);
#pragma unroll
      for (int i = 0; i < kLaneChannels; ++i) {
        if (channel + i < channels.count && pixel.existing > 0) {
          *pixel.channel(a, channel + i) = Out::from_float(y.values[i]);
        }
      }
    }
  }
}

// And of two-byte values.
template <class Out>
__device__ inline void store_pairs(const WgmmaArguments& a, const Channels& channels, u32 shared,
                                   const LaneRows& rows, const Sums& sums) {
  using Pairs = PixelPairs<Out>;
  const int lane = threadIdx.x % 32;
  const float of_row[2] = {row_value(rows.set[0]), row_value(rows.set[1])};
  const bool in_fours = Pairs::come_in_fours(a);
  const auto pixels = LanePixels<Out>::at(a, channels, rows.first + Pairs::first(in_fours));
#pragma unroll
  for (int word = 0; word < kTileWords; ++word) {
    hold_loads();
    const int channel = word * kWordBits + lane % 4 * kLaneChannels;
    const auto of_channels = ChannelValues::load(shared + 4 * channel);
    Pairs of_block[kLaneChannels / 2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const ClassValues counted =
          ClassValues::load(ClassValues::at(shared, rows.border[half], channel));
      const LaneValues y = finish_channels(sums, word, half, counted, of_channels, of_row[half]);
#pragma unroll
      for (int i = 0; i < kLaneChannels; i += 2) {
        of_block[i / 2].pairs[half] =
            transpose_pairs(Out::pair_from_floats(y.values[i], y.values[i + 1]));
      }
    }
    // A block's rows are channels now: lanes / 4.
    const int transposed = word * kWordBits + lane / 8 * kLaneChannels + lane / 4 % 2;
    if (in_fours) {
#pragma unroll
      for (int i = 0; i < kLaneChannels / 2; ++i) {
        of_block[i].store_four(a, pixels, transposed + 2 * i, transposed + 2 * i < channels.count);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kLaneChannels / 2; ++i) {
        if (transposed + 2 * i < channels.count) {
          of_block[i].store_each(a, pixels, transposed + 2 * i);
        }
      }
    }
  }
}

template <class Out>
__device__ inline void store_tile(const WgmmaArguments& a, const Channels& channels, u32 shared,
                                  const LaneRows& rows, const Sums& sums) {
  if constexpr (STORES == kPixels && sizeof(typename Out::Bits) == 2) {
    store_pairs<Out>(a, channels, shared, rows, sums);
  } else if constexpr (STORES == kPixels) {
    store_pixels<Out>(a, channels, shared, rows, sums);
  } else {
    store_floats<Out>(a, channels, shared, rows, sums);
  }
}
