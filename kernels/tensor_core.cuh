// Instructions of sm_80 and newer that have no C++ name: asynchronous copies to shared memory,
// matrix loads from it, and the 1-bit matrix product.
#pragma once

#include "types.cuh"

// Copies Bytes (4, 8 or 16); writes zeros instead where `inside` is false, and reads nothing then.
// 16 bytes go past the first-level cache, which nothing reads twice.
template <int Bytes>
__device__ inline void copy_async(u32 shared_address, const void* source, bool inside) {
  const int bytes = inside ? Bytes : 0;
  if constexpr (Bytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_address), "l"(source), "r"(bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
                 :
                 : "r"(shared_address), "l"(source), "n"(Bytes), "r"(bytes)
                 : "memory");
  }
}

__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most Pending of this thread's committed groups are unfinished.
template <int Pending>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" : : "n"(Pending) : "memory");
}

// threadIdx.x, read again: what is computed from it need not stay in registers from its last use
// on.
__device__ inline int thread_index() {
  int index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
}

// Two bytes of global memory, or zero.
__device__ inline u16 load_if(bool exists, const void* from) {
  u16 value;
  asm volatile(
      "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %1, 0;\n\tmov.b16 %0, 0;\n\t"
      "@p ld.global.u16 %0, [%2];\n\t}"
      : "=h"(value)
      : "r"(static_cast<int>(exists)), "l"(from)
      : "memory");
  return value;
}

__device__ inline u32 load_shared(u32 address) {
  u32 value;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(value) : "r"(address) : "memory");
  return value;
}

__device__ inline uint4 load_chunk(u32 address) {
  uint4 value;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "r"(address)
               : "memory");
  return value;
}

__device__ inline u32 shared_address(const void* pointer) {
  return static_cast<u32>(__cvta_generic_to_shared(pointer));
}

// Four 8x16-byte matrices; lane l gives the address of row l % 8 of matrix l / 8. Afterwards lane
// l holds bytes 4 * (l % 4) to + 3 of row l / 4 of each.
__device__ inline void load_matrices(u32 (&registers)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(address)
               : "memory");
}

// sums[16x8] += popc(a[16 rows x 256 bits] & b[8 columns x 256 bits]). The AND form: the XOR form
// is emulated on sm_90, 7 times slower (1.4 against 10 POPS measured on an H200).
__device__ inline void multiply_bits(int (&sums)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two numbers in one, the second in the high half: their sums and differences do not meet as long
// as each result fits 16 bits. Made before all else, so that these are one instruction.
__device__ inline u32 pair_of(int first, int second) {
  u32 pair;
  asm("mad.lo.u32 %0, %1, 65536, %2;" : "=r"(pair) : "r"(second), "r"(first));
  return pair;
}

// The top bits of the halves of two words: where one is set, a byte of -1, elsewhere of 0.
__device__ inline u32 spread_signs(u32 first, u32 second) {
  u32 bytes;
  asm("prmt.b32 %0, %1, %2, 0xFDB9;" : "=r"(bytes) : "r"(first), "r"(second));
  return bytes;
}

// sum + the products of four bytes, signed by unsigned.
__device__ inline u32 add_signs(u32 sum, u32 signs, u32 weights) {
  asm("dp4a.s32.u32 %0, %1, %2, %0;" : "+r"(sum) : "r"(signs), "r"(weights));
  return sum;
}
