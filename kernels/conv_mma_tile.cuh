// The tile of conv_mma, its shared memory, and its rows (output pixels).
//
// Compiled with -DTILE_M, -DTILE_N (pixels and channels of a block), -DWARP_M (pixels of a warp,
// which always has 32 channels), -DSTAGES, -DCOPY_WORDS (words of one asynchronous copy; divides
// group_words) and -DMASKED (1 where a group's last word has a tail).
#pragma once

#include "epilogue.cuh"
#include "tensor_core.cuh"

constexpr int kWarpN = 32;
constexpr int kWarpsM = TILE_M / WARP_M;
constexpr int kWarpsN = TILE_N / kWarpN;
constexpr int kThreads = 32 * kWarpsM * kWarpsN;
constexpr int kStepWords = 8;    // 256 bits: one matrix instruction
constexpr int kStageWords = 32;  // of a row: 128 bytes, a wavefront of shared memory
constexpr int kStageBytes = (TILE_M + TILE_N) * kStageWords * 4;

static_assert(kThreads >= TILE_M && kThreads >= TILE_N, "a thread a row and a thread a channel");

// A row of the tile: an output pixel as seen by the loads.
struct alignas(16) Row {
  int row;  // of the input under the first tap; far outside where there is no such pixel
  int column;
  const u32* words;  // of that input pixel and the block's group (not in the image in the padding)
};

constexpr int kNoRow = -(1 << 30);

__device__ inline Row load_row(u32 address) {
  Row row;
  asm volatile(
      "ld.shared.v2.b32 {%0, %1}, [%3];\n\t"
      "ld.shared.b64 %2, [%3 + 8];"
      : "=r"(row.row), "=r"(row.column), "=l"(row.words)
      : "r"(address)
      : "memory");
  return row;
}

// The rectangle of taps inside the image: its corners as entries of the border table (of at most
// 255 entries), or kAllTaps.
union Corners {
  struct {
    u8 first_first, first_last, last_first, last_last;
  };
  u32 word;
};

constexpr u32 kAllTaps = ~0u;

// Everything but the ring of stages, which comes first in dynamic shared memory, and the border
// table, which comes last because its size depends on the kernel.
struct Shared {
  Row rows[TILE_M];
  i64 images[TILE_M];  // contiguous output: where the pixel's image starts, less channels
  Corners corners[TILE_M];
  int row_bits[TILE_M];  // popc(a)
  int counted[TILE_N];   // sum of group_channels - 2 popc(b) over all taps
  Channel<OUT> channels[TILE_N];
};

static_assert(sizeof(Shared) == 32 * TILE_M + 12 * TILE_N, "as in Tile of plan_conv.py");

// Where the float output of a contiguous tile is transposed: over the ring, after its last use.
template <class Out>
struct Transposed {
  static constexpr int kStride = TILE_M + 4 / static_cast<int>(sizeof(typename Out::Bits));
  static constexpr int kBytes = TILE_N * kStride * static_cast<int>(sizeof(typename Out::Bits));
};

template <>
struct Transposed<bits> {
  static constexpr int kStride = 0;
  static constexpr int kBytes = 0;
};

constexpr int kRingStages = STAGES * kStageBytes;
constexpr int kRingBytes =
    kRingStages > Transposed<OUT>::kBytes ? kRingStages : (Transposed<OUT>::kBytes + 15) / 16 * 16;

// What is fixed for a block: its group and its output channels. (The plan keeps all sizes of an
// image and of the filters below 2**30; only products of them need 64 bits.)
struct Block {
  int group;
  int first_channel;
  int channels;  // of the tile, at most TILE_N

  static __device__ Block at(const ConvArguments& a, int index) {
    const int out_per_group = static_cast<int>(a.out_channels) / static_cast<int>(a.groups);
    const int tiles = (out_per_group + TILE_N - 1) / TILE_N;
    const int group = index / tiles;
    const int skipped = index % tiles * TILE_N;
    const int left = out_per_group - skipped;
    return {group, group * out_per_group + skipped, left < TILE_N ? left : TILE_N};
  }
};

// Words of one filter: the depth of the product.
__device__ inline int filter_words(const ConvArguments& a) {
  return static_cast<int>(a.filter_words);
}

// Taps of one axis inside the image, clamped to an interval [first, last).
__device__ inline int2 inside_taps(int start, int dilation, int taps, int size) {
  const int first = start < 0 ? (-start + dilation - 1) / dilation : 0;
  const int last = start >= size ? 0 : (size - 1 - start) / dilation + 1;
  const int clamped_first = first < taps ? first : taps;
  const int clamped_last = last < taps ? last : taps;
  return make_int2(clamped_first, clamped_last > clamped_first ? clamped_last : clamped_first);
}

__device__ inline Corners corners_of(const ConvArguments& a, int row, int column) {
  Corners corners;
  corners.word = kAllTaps;
  if (!a.has_border) return corners;
  const int rows = static_cast<int>(a.kernel_rows);
  const int columns = static_cast<int>(a.kernel_columns);
  const int2 i =
      inside_taps(row, static_cast<int>(a.dilation_rows), rows, static_cast<int>(a.height));
  const int2 j =
      inside_taps(column, static_cast<int>(a.dilation_columns), columns, static_cast<int>(a.width));
  if (i.x == 0 && j.x == 0 && i.y == rows && j.y == columns) return corners;
  const int pitch = columns + 1;
  corners.first_first = static_cast<u8>(i.x * pitch + j.x);
  corners.first_last = static_cast<u8>(i.x * pitch + j.y);
  corners.last_first = static_cast<u8>(i.y * pitch + j.x);
  corners.last_last = static_cast<u8>(i.y * pitch + j.y);
  return corners;
}

__device__ inline void describe_rows(const ConvArguments& a, Shared& shared, int group,
                                     i64 first_pixel) {
  const int r = threadIdx.x;
  if (r >= TILE_M) return;
  shared.row_bits[r] = 0;
  if (first_pixel + r >= a.batch * a.out_height * a.out_width) {
    shared.rows[r] = {kNoRow, kNoRow, a.x};
    shared.corners[r].word = kAllTaps;
    return;
  }
  const OutputPixel at = OutputPixel::at(a, first_pixel + r);
  const int row = static_cast<int>(at.row);
  const int column = static_cast<int>(at.column);
  const i64 pixel = (at.image * a.height + row) * a.width + column;
  shared.rows[r] = {row, column, a.x + (pixel * a.groups + group) * a.group_words};
  shared.images[r] = at.image * a.out_channels * a.out_height * a.out_width + at.position;
  shared.corners[r] = corners_of(a, row, column);
}
