// What crosses the C ABI: plain structs of 64-bit integers, mirrored by binop/_cpu/abi.py.
#pragma once

#include <cstdint>

using i64 = std::int64_t;

// Element types by number.
enum Dtype : i64 { kFloat16, kBfloat16, kFloat32, kFloat64, kInt8, kBits };

// A 4-d tensor [N, C, H, W] of any strides, counted in elements.
struct Image {
  i64 dtype;
  i64 shape[4];
  i64 stride[4];
};

// Values per output channel: 0 in `stride` where one value serves all.
struct PerChannel {
  i64 dtype;
  i64 stride;
};

// A residual sum behind a convolution (binary_conv2d_residual): of a tensor [N, O, P, Q] of the
// output's dtype, whose strides are counted in elements.
struct ResidualSpec {
  i64 stride[4];
  i64 relu;  // before the sum
};

// One convolution. `x` or `weight` of dtype kBits is packed already: contiguous, and its strides
// are not read.
struct ConvSpec {
  i64 path;
  Image x;
  Image weight;  // [O, C/groups, KH, KW]
  i64 stride[2];
  i64 padding[2];
  i64 dilation[2];
  i64 groups;
  i64 pad_value;
  i64 out_size[2];
  i64 out_dtype;  // kBits: thresholds instead of scales
  i64 out_channels_last;
  PerChannel scale_a;
  PerChannel scale_w;
  PerChannel bias;  // float32
  PerChannel threshold;
  PerChannel flip;
  ResidualSpec residual;  // read where a call has a Residual
};

// A BatchNorm with fixed statistics behind a convolution to float32, as torch on this machine
// computes it: scale * y + shift, rounded once (fused) or after each operation. Scale and shift
// were derived from vectors of one float per channel, and hold while these are as they were.
struct Norm {
  static constexpr int kSources = 6;
  const float* source[kSources];  // null: none
  const float* copy[kSources];
  const float* scale;
  const float* shift;
  i64 fused;
};

// The operands of a residual sum, and where the sum's signs go, packed.
struct Residual {
  const void* values;
  const float* norm;        // [4, O]: mean, 1 / std, weight, bias
  const float* activation;  // [3, O]: before, slope, after; or null
  const float* shift;       // [O], or null
  std::uint32_t* signs;
};

// The pointers of one call. `prepared` is what binop_cpu_prepare made of the packed weight whose
// copy is `raw`, or null; scale_a, bias, norm and residual may be null.
struct ConvPointers {
  const void* x;
  const void* weight;
  const void* raw;
  const void* prepared;
  void* out;
  const void* scale_a;
  const void* scale_w;
  const void* bias;
  const void* threshold;
  const void* flip;
  const Norm* norm;
  const Residual* residual;
};

struct PackSpec {
  i64 path;
  Image x;
  double clip;
  i64 scale_dtype;
};

struct UnpackSpec {
  i64 path;
  i64 pixels;
  i64 channels;
  i64 dtype;
};

// What binop_cpu_conv returns.
enum Outcome : i64 { kDone, kStale, kNoMemory };
