// Stands in for kernels/hopper.cuh, whose functions are single instructions.
#pragma once

#include "barriers.cuh"
#include "tensor_core.cuh"

namespace emulated {

// Each warpgroup's exchange of fragments for a product.
static Barrier warpgroup_barriers[kMaxThreads / 128];
static u32 fragments[kMaxThreads][4];

inline void sync_warpgroup() { arrive(warpgroup_barriers[current / 128], 128); }

}  // namespace emulated

inline void expect_bytes(u32 barrier, int bytes) {
  emulated::barrier_word(barrier) += static_cast<u64>(bytes) << emulated::kBytesBit;
}

// It comes while somebody waits for a barrier.
inline void copy_row(u32 target, const void* source, int bytes, u32 barrier) {
  if (target % 16 != 0 || reinterpret_cast<uintptr_t>(source) % 16 != 0 || bytes % 16 != 0)
    emulated::fail("a row that is not aligned");
  if (target + bytes > emulated::shared_bytes) emulated::fail("a row beyond shared memory");
  emulated::rows_on_their_way.push_back({target, source, bytes, barrier});
}

// The copies arrive here: later than on a device they cannot.
inline void arrive_after_copies(u32 barrier) {
  commit_copies();
  wait_copies<0>();
  arrive(barrier);
}

template <int Registers>
inline void give_registers() {}
template <int Registers>
inline void take_registers() {}

inline void publish_to_products() {}
inline void order_before_copies() {}
inline void begin_products() {}
inline void commit_products() {}
template <int Pending = 0, class... Sums>
inline void wait_products(Sums&...) {
  emulated::sync_warpgroup();
}

inline void keep(int&) {}
inline void keep(u32&) {}
inline void keep(const void*&) {}
inline void forget(u32& value) { value = 0xDEADBEEFu; }
inline void pin(u32&) {}

inline void store_shared(u32 address, u32 value) {
  emulated::check_shared(address, 4);
  memcpy(emulated::shared_memory + address, &value, 4);
}

inline void add_shared(u32 address, int value) {
  emulated::check_shared(address, 4);
  u32 sum;
  memcpy(&sum, emulated::shared_memory + address, 4);
  sum += static_cast<u32>(value);
  memcpy(emulated::shared_memory + address, &sum, 4);
}

inline void load_pair(u32& first, u32& second, u32 address) {
  emulated::check_shared(address, 8);
  memcpy(&first, emulated::shared_memory + address, 4);
  memcpy(&second, emulated::shared_memory + address + 4, 4);
}

inline float4 load_floats(u32 address) {
  emulated::check_shared(address, 16);
  return *reinterpret_cast<const float4*>(emulated::shared_memory + address);
}

inline void load_chunk_if(bool wanted, u32 (&words)[4], u32 address) {
  if (!wanted) return;
  emulated::check_shared(address, 16);
  memcpy(words, emulated::shared_memory + address, 16);
}

inline void store_vector(void* to, u32 x, u32 y, u32 z, u32 w) {
  if (reinterpret_cast<uintptr_t>(to) % 16 != 0) emulated::fail("misaligned store of 16 bytes");
  const u32 words[] = {x, y, z, w};
  memcpy(to, words, sizeof words);
}

inline void store_vector_if(bool exists, void* to, u32 x, u32 y, u32 z, u32 w) {
  if (exists) store_vector(to, x, y, z, w);
}

inline void store_word_if(bool exists, void* to, u32 word) {
  if (exists) memcpy(to, &word, sizeof word);
}

inline void store_chunk(u32 address, uint4 value) {
  emulated::check_shared(address, 16);
  memcpy(emulated::shared_memory + address, &value, 16);
}

inline void fill_shared(u32 address, u32 word) {
  for (int i = 0; i < 16; i += 4) store_shared(address + i, word);
}

inline int count_bits(u32 word) { return __popc(word); }

inline float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

template <class Out>
u32 below_zero(u32 pair) {
  u32 halves = 0;
  for (int i = 0; i < 2; ++i) {
    const bool at_least = Out::to_float(static_cast<u16>(pair >> 16 * i)) >= 0.0f;
    halves |= (at_least ? 0u : 0xFFFFu) << 16 * i;
  }
  return halves;
}

// Lane 4r+t holds row r, columns 2t and 2t + 1.
inline u32 transpose_pairs(u32 pair) {
  const auto* pairs = emulated::exchange({static_cast<u64>(pair)});
  const int row = emulated::lane() / 4;
  const int column = emulated::lane() % 4 * 2;
  u32 transposed = 0;
  for (int i = 0; i < 2; ++i) {
    const u32 from = static_cast<u32>(pairs[(column + i) * 4 + row / 2][0]);
    transposed |= (from >> row % 2 * 16 & 0xFFFFu) << i * 16;
  }
  return transposed;
}
