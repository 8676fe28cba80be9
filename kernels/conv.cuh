// What the convolution kernels share: their arguments, and where an output element lies.
//
// dot = sum over the taps inside the image of (group_channels - 2 popc(a ^ b))
//     = sum over the taps inside the image of (group_channels - 2 popc(b))
//       - 2 popc(a) + 4 popc(a & b)            with the bits of a clear outside the image.
// With pad_value -1 every tap counts; with 1, a tap outside the image adds what it would have
// subtracted with -1.
#pragma once

#include "bits.cuh"

struct ConvArguments {
  const u32* x;       // [batch, height, width, groups * group_words]
  const u32* weight;  // [out_channels, kernel_rows, kernel_columns, group_words]
  void* out;
  const void* scale_a;  // null: scale_w is alpha already
  const void* scale_w;
  const float* bias;     // may be null
  const int* threshold;  // packed output: these two instead of scales and bias
  const bool* flip;
  i64 scale_a_dtype;
  i64 scale_w_dtype;
  i64 scale_w_stride;
  i64 bias_stride;
  i64 threshold_stride;
  i64 flip_stride;
  i64 batch;
  i64 height;
  i64 width;
  i64 out_channels;
  i64 out_height;
  i64 out_width;
  i64 kernel_rows;
  i64 kernel_columns;
  i64 stride_rows;
  i64 stride_columns;
  i64 padding_rows;
  i64 padding_columns;
  i64 dilation_rows;
  i64 dilation_columns;
  i64 groups;
  i64 group_channels;
  i64 group_words;
  i64 pad_value;
  i64 channels_last;  // layout of a float output
};

// An output pixel: its image, the image's pixel under the first tap, and its place in the output.
struct OutputPixel {
  i64 image;
  i64 position;  // row * out_width + column
  i64 row;       // of the input; negative in the padding
  i64 column;

  static __device__ OutputPixel at(const ConvArguments& a, i64 index) {
    const i64 plane = a.out_height * a.out_width;
    const i64 image = divide(index, plane);
    const i64 position = index - image * plane;
    const i64 out_row = divide(position, a.out_width);
    const i64 out_column = position - out_row * a.out_width;
    return {image, position, out_row * a.stride_rows - a.padding_rows,
            out_column * a.stride_columns - a.padding_columns};
  }
};
