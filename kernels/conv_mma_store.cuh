// Sums of a tile -> output: corrections, epilogue, and stores for each layout. Every warp stores
// its own part, without waiting for the others.
#pragma once

#include "conv_mma_product.cuh"

// What the epilogue needs of one row of the tile.
struct Row {
  int term;   // of popc(a)
  int table;  // of the table's entries for the pixel: the first, or of PAIRS bytes before this
              // lane's

  static __device__ Row of(int set, int table) {
#if PAIRS
    return {static_cast<int>(half_set_pair(set)), table * 4 + (set & 1) * kOddAt};
#else
    return {(Channel<OUT>::kPacked ? 0 : kShiftBits) - 2 * set, table};
#endif
  }
};

// Sums popc over the taps of rows of the tile, by so many threads; each has a row, or some side by
// side (the last may be another's, too).
template <int Rows, int Threads>
__device__ inline void describe_rows(const MmaArguments& a, int thread, const Spot* spots,
                                     const int* taps, const int* set_bits, Row* rows) {
  constexpr int kTurns = (Rows + Threads - 1) / Threads;
  static_assert(kTurns * Threads <= 2 * Rows);
  Spot spot[kTurns];
  const int* at[kTurns];
  int set[kTurns] = {};
#pragma unroll
  for (int r = 0; r < kTurns; ++r) {
    const int row = thread + r * Threads;
    spot[r] = spots[row < Rows ? row : row - Rows];
    at[r] = set_bits + spot[r].entry;
  }
  const int count = static_cast<int>(a.kernel_rows * a.kernel_columns);
#pragma unroll 3
  for (int tap = 0; tap < count; ++tap) {
    const int apart = taps[tap];
#pragma unroll
    for (int r = 0; r < kTurns; ++r) set[r] += at[r][apart];
  }
#pragma unroll
  for (int r = 0; r < kTurns; ++r) {
    const int row = thread + r * Threads;
    if (row < Rows) rows[row] = Row::of(set[r], spot[r].table);
  }
}

// A lane's rows of the tile.
struct Lane {
  int row;  // of the warp: the first of 2 * kProductsM that are 8 apart
  int first_pixel;
  int pixels;  // in all

  static __device__ Lane of_thread(const MmaArguments& a, int first_pixel, const Warp& warp) {
    const int row = lane_index() / 4;
    return {row, first_pixel + warp.m * WARP_M + row, static_cast<int>(a.pixels)};
  }
};

// The bits of a lane's channels in a row.
constexpr int kPieceBits = WARP_N / 4;
using Piece = Choose<WARP_N == 64, u16, u8>::Type;

// What stays the same in every tile.
template <class Out>
struct Finish {
  const Channel<Out>* channels;

  static __device__ Finish of(const Block&, const Warp&, const Channel<Out>* channels) {
    return {channels};
  }
};

// What is to be done with a lane's signs.
template <>
struct Finish<bits> {
  u32 word;  // which to exchange (at_least), and in the high half which exist

  static __device__ Finish of(const Block& block, const Warp& warp, const Channel<bits>* channels) {
    const int first = warp.n * WARP_N + lane_channel(lane_index(), 0);
    u32 word = 0;
#pragma unroll
    for (int c = 0; c < kPieceBits; ++c) {
      if (first + c < block.channels) word |= (channels[first + c].at_least | 1u << 16) << c;
    }
    return {word};
  }

  // `below`: sign bits of dot - threshold.
  __device__ Piece piece(u32 below) const {
    return static_cast<Piece>((below ^ word) & (word >> 16));
  }
};

__device__ inline void load_entries(int (&entries)[kLaneChannels], const int* table) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int4 four = reinterpret_cast<const int4*>(table)[half];
    entries[half * 4] = four.x;
    entries[half * 4 + 1] = four.y;
    entries[half * 4 + 2] = four.z;
    entries[half * 4 + 3] = four.w;
  }
}

// The eight sums of one row and group.
__device__ inline int sum_of(const Sums& sums, int i, int half, int group, int c) {
  return sums[i][group * 4 + c / 2][half * 2 + c % 2];
}

// Eight values of one row, channels innermost in the output and aligned for 16-byte stores.
template <class Out>
__device__ void store_row(typename Out::Bits* out, const float (&values)[kLaneChannels]) {
  if constexpr (sizeof(typename Out::Bits) == 2) {
    *reinterpret_cast<uint4*>(out) = make_uint4(
        Out::pair_from_floats(values[0], values[1]), Out::pair_from_floats(values[2], values[3]),
        Out::pair_from_floats(values[4], values[5]), Out::pair_from_floats(values[6], values[7]));
  } else {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      reinterpret_cast<float4*>(out)[half] = make_float4(
          values[half * 4], values[half * 4 + 1], values[half * 4 + 2], values[half * 4 + 3]);
    }
  }
}

// Any other output: 32 channels of the warp's pixels cross shared memory, so that lanes store along
// the pixels of one channel, or along the channels of one pixel.
template <class Out>
struct Crossing {
  static constexpr int kPitch = WARP_M + 4 / static_cast<int>(sizeof(typename Out::Bits));
  typename Out::Bits values[32 * kPitch];

  __device__ void store(const MmaArguments& a, const Block& block, int tile_pixel, const Warp& warp,
                        int group) const {
    const int lane = lane_index();
    const int first = warp.n * WARP_N + group * 32;
    const int channels = block.channels - first < 32 ? block.channels - first : 32;
    const int first_pixel = tile_pixel + warp.m * WARP_M;
    const int pixels = static_cast<int>(a.pixels) - first_pixel;
    auto* out = static_cast<typename Out::Bits*>(a.out);
    if (a.channels_last) {
      out += first_pixel * a.out_channels + block.first_channel + first + lane;
      for (int r = 0; r < WARP_M && r < pixels && lane < channels; ++r, out += a.out_channels) {
        *out = values[lane * kPitch + r];
      }
    } else {
      const i64 plane = a.out_height * a.out_width;
      for (int r = lane; r < WARP_M && r < pixels; r += 32) {
        const int pixel = first_pixel + r;
        const i64 image = divide_by(pixel, a.by_plane);
        auto* to = out + (image * a.out_channels + block.first_channel + first) * plane +
                   (pixel - image * plane);
#pragma unroll 8
        for (int c = 0; c < channels; ++c, to += plane) *to = values[c * kPitch + r];
      }
    }
    __syncwarp();
  }
};

template <class Out>
__device__ void store_floats(const MmaArguments& a, const Block& block, int tile_pixel,
                             const Warp& warp, const Row* rows, const Finish<Out>& finish,
                             const int* table, const Sums& sums, Crossing<Out>* crossing) {
  const Lane lane = Lane::of_thread(a, tile_pixel, warp);
#if ROWS
  auto* out = static_cast<typename Out::Bits*>(a.out) + lane.first_pixel * a.out_channels +
              block.first_channel + warp.n * WARP_N + lane_channel(lane_index(), 0);
#endif
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    const int in_warp = lane_channel(lane_index(), group);
    const int first = warp.n * WARP_N + in_warp;
    Channel<Out> constants[kLaneChannels];
#pragma unroll
    for (int c = 0; c < kLaneChannels; ++c) constants[c] = finish.channels[first + c];
#pragma unroll
    for (int i = 0; i < kProductsM; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int r = lane.row + i * 16 + half * 8;
        const Row row = rows[r];
        int entries[kLaneChannels];
        load_entries(entries, table + row.table + first);
        float values[kLaneChannels];
#pragma unroll
        for (int c = 0; c < kLaneChannels; ++c) {
          const int shifted = 4 * sum_of(sums, i, half, group, c) + row.term;
          values[c] =
              constants[c].finish(__fadd_rn(__int_as_float(shifted), __int_as_float(entries[c])));
        }
#if ROWS
        const int pixel = lane.first_pixel + i * 16 + half * 8;
        if (pixel < lane.pixels && first < block.channels) {
          store_row<Out>(out + (i * 16 + half * 8) * a.out_channels + group * 32, values);
        }
#else
#pragma unroll
        for (int c = 0; c < kLaneChannels; ++c) {
          crossing->values[(in_warp - group * 32 + c) * Crossing<Out>::kPitch + r] =
              Out::from_float(values[c]);
        }
#endif
      }
    }
#if !ROWS
    __syncwarp();
    crossing->store(a, block, tile_pixel, warp, group);
#endif
  }
}

// The signs of dot - threshold of a lane's channels in a row; `first` is the first of them.
__device__ inline u32 below_thresholds(const Sums& sums, int i, int half, const Row& row,
                                       const int* table, int first) {
#if PAIRS
  u32 bytes[2] = {};
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    const u32 of_lane = shared_address(table) + 2 * first + row.table;
    const uint4 entry = load_chunk(of_lane ^ group * 2 * kLaneChannels);
    const u32 entries[4] = {entry.x, entry.y, entry.z, entry.w};
    u32 decided[4];
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      decided[pair] = pair_of(sum_of(sums, i, half, group, 2 * pair),
                              sum_of(sums, i, half, group, 2 * pair + 1)) +
                      entries[pair] - static_cast<u32>(row.term);
    }
    bytes[group] = below_threshold(decided);
  }
  return __byte_perm(bytes[0], bytes[1], 0x0040);
#else
  u32 below = 0;
#pragma unroll
  for (int group = kGroups - 1; group >= 0; --group) {
    int entries[kLaneChannels];
    load_entries(entries, table + row.table + first + group * kLaneChannels);
#pragma unroll
    for (int c = kLaneChannels - 1; c >= 0; --c) {
      const int above = 4 * sum_of(sums, i, half, group, c) + (row.term - entries[c]);
      below = __funnelshift_l(static_cast<u32>(above), below, 1);
    }
  }
  return below;
#endif
}

__device__ inline void store_bits(const MmaArguments& a, const Block& block, int tile_pixel,
                                  const Warp& warp, const Row* rows, const Finish<bits>& finish,
                                  const int* table, const Sums& sums) {
  const Lane lane = Lane::of_thread(a, tile_pixel, warp);
  const int first = warp.n * WARP_N + lane_channel(lane_index(), 0);
  // Past the last channel, bits are clear up to the end of the word.
  const int pixels = first / kWordBits * kWordBits < block.channels ? lane.pixels : 0;
  const i64 pixel_bytes = (a.out_channels + kWordBits - 1) / kWordBits * 4;
  u8* out =
      static_cast<u8*>(a.out) + lane.first_pixel * pixel_bytes + (block.first_channel + first) / 8;
#pragma unroll
  for (int i = 0; i < kProductsM; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half, out += 8 * pixel_bytes) {
      const int row = i * 16 + half * 8;
      const Piece piece =
          finish.piece(below_thresholds(sums, i, half, rows[lane.row + row], table, first));
      if (lane.first_pixel + row < pixels) *reinterpret_cast<Piece*>(out) = piece;
    }
  }
}

template <class Out>
__device__ void store_tile(const MmaArguments& a, const Block& block, int first_pixel,
                           const Warp& warp, const Finish<Out>& finish, u8* shared, const Row* rows,
                           const Sums& sums) {
  const int* table = at<int>(shared, a.table_at);
  if constexpr (Channel<Out>::kPacked) {
    store_bits(a, block, first_pixel, warp, rows, finish, table, sums);
  } else {
    constexpr i64 kPartials = (WARPS_K - 1) * WARPS_M * WARPS_N * sizeof(Partials);
    auto* crossings = at<Crossing<Out>>(shared, a.scratch_at + kPartials);
    store_floats<Out>(a, block, first_pixel, warp, rows, finish, table, sums,
                      crossings + warp.m * WARPS_N + warp.n);
  }
}
