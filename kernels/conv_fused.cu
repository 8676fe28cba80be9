// A small convolution of floats in one launch: every block packs the whole input and the filters of
// 32 channels into shared memory, and convolves there. Packing is repeated in each block, so this
// is for calls that take the host longer than the device.
#include "conv_simt.cuh"
#include "elements.cuh"

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kWordsAtOnce = 8;  // whose loads are in flight together

// A tensor [images, groups * channels, rows, columns] to be packed as [image][row][column][group].
struct Unpacked {
  const void* values;
  i64 images;
  i64 groups;
  i64 channels;  // of a group
  i64 rows;
  i64 columns;
  i64 stride_image;  // in elements
  i64 stride_channel;
  i64 stride_row;
  i64 stride_column;
  ElementType element;
};

struct FusedArguments : ConvArguments {
  i64 x_stride_image;
  i64 x_stride_channel;
  i64 x_stride_row;
  i64 x_stride_column;
  i64 x_bytes;
  i64 x_infinity;
  i64 x_minus_zero;
  i64 weight_stride;
  i64 weight_stride_channel;
  i64 weight_stride_row;
  i64 weight_stride_column;
  i64 weight_bytes;
  i64 weight_infinity;
  i64 weight_minus_zero;
};

// Lanes find where words start, the warp packs one after the other.
__device__ inline void pack_to_shared(const Unpacked& from, int group_words, u32* packed) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int groups = static_cast<int>(from.groups);
  const int rows = static_cast<int>(from.rows);
  const int columns = static_cast<int>(from.columns);
  const int words = static_cast<int>(from.images) * rows * columns * groups * group_words;
#pragma unroll 1
  for (int first = static_cast<int>(threadIdx.x) / 32 * kWordsAtOnce; first < words;
       first += kWarps * kWordsAtOnce) {
    const int mine = first + lane < words ? first + lane : words - 1;
    const int word = mine % group_words;
    const int group = mine / group_words % groups;
    const int pixel = mine / group_words / groups;
    const int row = pixel / columns % rows;
    const int left = static_cast<int>(from.channels) - word * kWordBits;
    const i64 start = pixel / columns / rows * from.stride_image + row * from.stride_row +
                      pixel % columns * from.stride_column +
                      (group * from.channels + word * kWordBits) * from.stride_channel;
    u32 values[kWordsAtOnce];
    bool exists[kWordsAtOnce];
#pragma unroll
    for (int i = 0; i < kWordsAtOnce; ++i) {
      const i64 word_start = __shfl_sync(kAllLanes, start, i);
      exists[i] = lane < __shfl_sync(kAllLanes, left, i);
      values[i] =
          from.element.load(from.values, word_start + (exists[i] ? lane : 0) * from.stride_channel);
    }
#pragma unroll
    for (int i = 0; i < kWordsAtOnce; ++i) {
      const u32 set = __ballot_sync(kAllLanes, exists[i] && from.element.is_nonnegative(values[i]));
      if (lane == i && first + i < words) packed[first + i] = set;
    }
  }
}

// x, or the filters of 32 channels. Told apart field by field: an array of both would lie in local
// memory.
__device__ inline Unpacked operand(const FusedArguments& a, bool is_x, i64 first_channel) {
  const auto element =
      ElementType::of(is_x ? a.x_bytes : a.weight_bytes, is_x ? a.x_infinity : a.weight_infinity,
                      is_x ? a.x_minus_zero : a.weight_minus_zero);
  const i64 left = a.out_channels - first_channel;
  return {is_x ? a.x : element.at(a.weight, first_channel * a.weight_stride),
          is_x        ? a.batch
          : left < 32 ? left
                      : 32,
          is_x ? a.groups : 1,
          a.group_channels,
          is_x ? a.height : a.kernel_rows,
          is_x ? a.width : a.kernel_columns,
          is_x ? a.x_stride_image : a.weight_stride,
          is_x ? a.x_stride_channel : a.weight_stride_channel,
          is_x ? a.x_stride_row : a.weight_stride_row,
          is_x ? a.x_stride_column : a.weight_stride_column,
          element};
}

extern "C" __global__ void __launch_bounds__(kThreads)
    conv_fused(const __grid_constant__ FusedArguments a) {
  extern __shared__ __align__(128) u8 dynamic[];
  const i64 first_channel = static_cast<i64>(blockIdx.x) * 32;
  const int group_words = static_cast<int>(a.group_words);
  const i64 x_words = a.batch * a.height * a.width * a.groups * a.group_words;

  ConvArguments packed = a;
  u32* x = reinterpret_cast<u32*>(dynamic);
  u32* filters = x + x_words;
  packed.x = x;
  // In a loop, so that its code is there once: what runs once waits for code to come from memory.
#pragma unroll 1
  for (int i = 0; i < 2; ++i) {
    pack_to_shared(operand(a, i == 0, first_channel), group_words, i == 0 ? x : filters);
  }
  __syncthreads();

  const i64 pixels = a.batch * a.out_height * a.out_width;
#pragma unroll 1
  for (i64 first = threadIdx.x / 32 * kPixels; first < pixels; first += kWarps * kPixels) {
    convolve(packed, first, first_channel, filters, first_channel);
  }
}
