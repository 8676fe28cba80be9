// unpack: bits to +1 and -1 of -DELEMENT, channels innermost. Memory-bound on the stores: a thread
// writes 16 bytes.
#include "bits.cuh"

using Bits = ELEMENT::Bits;

struct UnpackArguments {
  const u32* packed;
  Bits* out;
  i64 pixels;
  i64 channels;
  i64 words;  // of a pixel
};

constexpr int kThreads = 256;
constexpr int kVector = 16 / sizeof(Bits);

template <class Element>
__device__ typename Element::Bits sign_value(u32 bit) {
  return static_cast<typename Element::Bits>(Element::kOne | (bit ? 0u : Element::kMinusZero));
}

template <>
__device__ u8 sign_value<int8>(u32 bit) {
  return bit ? 0x01 : 0xFF;
}

union Stored {
  uint4 vector;
  Bits elements[kVector];
};

extern "C" __global__ void __launch_bounds__(kThreads)
    unpack(const __grid_constant__ UnpackArguments a) {
  const i64 total = a.pixels * a.channels;
  const i64 first = (static_cast<i64>(blockIdx.x) * kThreads + threadIdx.x) * kVector;
  if (first >= total) return;
  i64 pixel = divide(first, a.channels);
  i64 channel = first - pixel * a.channels;

  Stored stored;
  if (a.channels % kVector == 0) {
    const u32 bits =
        a.packed[pixel * a.words + channel / kWordBits] >> static_cast<u32>(channel % kWordBits);
#pragma unroll
    for (int i = 0; i < kVector; ++i) stored.elements[i] = sign_value<ELEMENT>((bits >> i) & 1u);
    *reinterpret_cast<uint4*>(a.out + first) = stored.vector;
    return;
  }
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    if (first + i < total) {
      const u32 word = a.packed[pixel * a.words + channel / kWordBits];
      stored.elements[i] =
          sign_value<ELEMENT>((word >> static_cast<u32>(channel % kWordBits)) & 1u);
    }
    if (++channel == a.channels) {
      channel = 0;
      ++pixel;
    }
  }
  if (first + kVector <= total) {
    *reinterpret_cast<uint4*>(a.out + first) = stored.vector;
  } else {
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      if (first + i < total) a.out[first + i] = stored.elements[i];
    }
  }
}
