// An element type that is told apart at run time, where types would multiply kernels for little.
#pragma once

#include "bits.cuh"

struct ElementType {
  int bytes;
  u32 infinity;  // as in the types of types.cuh
  u32 minus_zero;

  static __device__ ElementType of(i64 bytes, i64 infinity, i64 minus_zero) {
    return {static_cast<int>(bytes), static_cast<u32>(infinity), static_cast<u32>(minus_zero)};
  }

  __device__ const void* at(const void* base, i64 index) const {
    return static_cast<const u8*>(base) + index * bytes;
  }

  __device__ u32 load(const void* base, i64 index) const {
    if (bytes == 4) return static_cast<const u32*>(base)[index];
    if (bytes == 2) return static_cast<const u16*>(base)[index];
    return static_cast<const u8*>(base)[index];
  }

  __device__ bool is_nonnegative(u32 value) const {
    return ::is_nonnegative(value, infinity, minus_zero);
  }
};
