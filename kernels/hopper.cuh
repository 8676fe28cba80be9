// Single instructions for conv_wgmma that have no C++ name: copies that barriers hear of, registers
// handed from warpgroup to warpgroup, what orders the matrix products of a warpgroup, and accesses
// and arithmetic whose place or form matters.
#pragma once

#include "barriers.cuh"
#include "tensor_core.cuh"

// Arrives once this thread's copies so far are in shared memory; does not wait for them.
__device__ inline void arrive_after_copies(u32 barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" : : "r"(barrier) : "memory");
}

// The barrier's phase shall not end before so many bytes more have come by copy_row.
__device__ inline void expect_bytes(u32 barrier, int bytes) {
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;"
               :
               : "r"(barrier), "r"(bytes)
               : "memory");
}

// Copies whole 16-byte pieces from global to shared memory, both aligned to 16 bytes, past this
// thread; the barrier hears of it.
__device__ inline void copy_row(u32 target, const void* source, int bytes, u32 barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
      :
      : "r"(target), "l"(source), "r"(bytes), "r"(barrier)
      : "memory");
}

template <int Registers>
__device__ inline void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" : : "n"(Registers));
}

template <int Registers>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" : : "n"(Registers));
}

// Shared memory written by this thread becomes visible to the matrix products.
__device__ inline void publish_to_products() {
  asm volatile("fence.proxy.async.shared::cta;" : : : "memory");
}

// What this thread wrote to shared memory stands before what copy_row writes there later.
__device__ inline void order_before_copies() { publish_to_products(); }

// Registers written before are read by the products after.
__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ inline void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Keeps a value in its register, where the compiler would rather load or compute it again.
__device__ inline void keep(int& value) { asm volatile("" : "+r"(value)); }
__device__ inline void keep(u32& value) { asm volatile("" : "+r"(value)); }
__device__ inline void keep(float& value) { asm volatile("" : "+f"(value)); }
__device__ inline void keep(const void*& pointer) { asm volatile("" : "+l"(pointer)); }

template <class Value, int Count>
__device__ inline void keep(Value (&values)[Count]) {
#pragma unroll
  for (int i = 0; i < Count; ++i) keep(values[i]);
}

// Until at most Pending of the committed groups are unfinished. `sums` are all that are read behind
// it: nothing else tells the compiler that they change here. They are read when no group is
// unfinished, as the assembler does not tell groups apart: of a second wait for the rest of them it
// read a sum before the wait, which was not yet complete.
template <int Pending = 0, class... Sums>
__device__ inline void wait_products(Sums&... sums) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" : : "n"(Pending) : "memory");
  (keep(sums.values), ...);
}

// The same where the assembler, which looks through `keep`, would compute it again: not through a
// shuffle.
__device__ inline void pin(u32& value) {
  value = __shfl_sync(kAllLanes, value, static_cast<int>(threadIdx.x) % 32);
}

// Whatever its register holds: nothing before is wanted any more.
__device__ inline void forget(u32& value) { asm volatile("" : "=r"(value)); }

__device__ inline void store_shared(u32 address, u32 value) {
  asm volatile("st.shared.u32 [%0], %1;" : : "r"(address), "r"(value) : "memory");
}

__device__ inline void add_shared(u32 address, int value) {
  asm volatile("red.shared.add.s32 [%0], %1;" : : "r"(address), "r"(value) : "memory");
}

// Two words, 8-byte aligned.
__device__ inline void load_pair(u32& first, u32& second, u32 address) {
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];"
               : "=r"(first), "=r"(second)
               : "r"(address)
               : "memory");
}

__device__ inline float4 load_floats(u32 address) {
  float4 value;
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w)
               : "r"(address)
               : "memory");
  return value;
}

// In place, where `wanted`.
__device__ inline void load_chunk_if(bool wanted, u32 (&words)[4], u32 address) {
  asm volatile(
      "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %4, 0;\n\t"
      "@p ld.shared.v4.u32 {%0, %1, %2, %3}, [%5];\n\t}"
      : "+r"(words[0]), "+r"(words[1]), "+r"(words[2]), "+r"(words[3])
      : "r"(static_cast<int>(wanted)), "r"(address)
      : "memory");
}

__device__ inline void store_chunk(u32 address, uint4 value) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};"
               :
               : "r"(address), "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w)
               : "memory");
}

// 16 bytes to global memory in one store. Of an assignment of a uint4 the compiler makes four
// stores, and joins them again only where it finds nothing between them.
__device__ inline void store_vector(void* to, u32 x, u32 y, u32 z, u32 w) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};"
               :
               : "l"(to), "r"(x), "r"(y), "r"(z), "r"(w));
}

__device__ inline void store_vector_if(bool exists, void* to, u32 x, u32 y, u32 z, u32 w) {
  asm volatile(
      "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %0, 0;\n\t"
      "@p st.global.v4.u32 [%1], {%2, %3, %4, %5};\n\t}"
      :
      : "r"(static_cast<int>(exists)), "l"(to), "r"(x), "r"(y), "r"(z), "r"(w));
}

// (Of a condition the compiler makes a branch, and what the store needs behind it.)
__device__ inline void store_word_if(bool exists, void* to, u32 word) {
  asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %0, 0;\n\t@p st.global.u32 [%1], %2;\n\t}"
               :
               : "r"(static_cast<int>(exists)), "l"(to), "r"(word));
}

// 16 bytes.
__device__ inline void fill_shared(u32 address, u32 word) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" : : "r"(address), "r"(word) : "memory");
}

// Stays where it is called.
__device__ inline int count_bits(u32 word) {
  int set;
  asm volatile("popc.b32 %0, %1;" : "=r"(set) : "r"(word));
  return set;
}

// One rounding; the sources are compiled without contraction, so that it needs a name.
__device__ inline float multiply_add(float a, float b, float c) {
  float result;
  asm("fma.rn.f32 %0, %1, %2, %3;" : "=f"(result) : "f"(a), "f"(b), "f"(c));
  return result;
}

// Of two values of Out in one word: the halves of those that are not at least 0, all ones.
template <class Out>
__device__ inline u32 below_zero(u32 pair) {
  u32 halves;
  if constexpr (Out::kTopOfFloat) {
    asm("set.ltu.u32.bf16x2 %0, %1, %2;" : "=r"(halves) : "r"(pair), "r"(0));
  } else {
    asm("set.ltu.u32.f16x2 %0, %1, %2;" : "=r"(halves) : "r"(pair), "r"(0));
  }
  return halves;
}

// An 8x8 matrix of 2-byte values, two a lane along a row, transposed.
__device__ inline u32 transpose_pairs(u32 pair) {
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;" : "+r"(pair));
  return pair;
}
