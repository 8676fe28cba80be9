// Stands in for kernels/hopper.cuh, whose functions are single instructions.
#pragma once

#include "tensor_core.cuh"

namespace emulated {

// A barrier in shared memory: its word holds the pending arrivals below, the wanted ones above, and
// the parity of its phase in the top bit.
constexpr u64 kCountBits = 20;
constexpr u64 kCountMask = (1ull << kCountBits) - 1;

inline u64& barrier_word(u32 address) {
  check_shared(address, 8);
  return *reinterpret_cast<u64*>(shared_memory + address);
}

// Barriers of the block by number, each with its own count of threads.
static Barrier named_barriers[16];
// Each warpgroup's exchange of fragments for a product.
static Barrier warpgroup_barriers[kMaxThreads / 128];
static u32 fragments[kMaxThreads][4];

inline void sync_warpgroup() { arrive(warpgroup_barriers[current / 128], 128); }

}  // namespace emulated

inline void init_barrier(u32 barrier, int arrivals) {
  const u64 count = static_cast<u64>(arrivals);
  emulated::barrier_word(barrier) = count << emulated::kCountBits | count;
}

inline void arrive(u32 barrier) {
  u64& word = emulated::barrier_word(barrier);
  if ((word & emulated::kCountMask) == 0)
    emulated::fail("arrival at a barrier that was not set up");
  --word;
  if ((word & emulated::kCountMask) == 0) {
    word |= word >> emulated::kCountBits & emulated::kCountMask;
    word ^= 1ull << 63;
  }
}

// The copies arrive here: later than on a device they cannot.
inline void arrive_after_copies(u32 barrier) {
  commit_copies();
  wait_copies<0>();
  arrive(barrier);
}

inline void wait_barrier(u32 barrier, u32 parity) {
  while (emulated::barrier_word(barrier) >> 63 == parity) emulated::yield();
}

template <int Threads>
inline void sync_threads(int index) {
  emulated::arrive(emulated::named_barriers[index], Threads);
}

template <int Threads>
inline void arrive_at_barrier(int index) {
  auto& barrier = emulated::named_barriers[index];
  if (++barrier.arrived >= Threads) {
    barrier.arrived = 0;
    ++barrier.turn;
  }
}

template <int Registers>
inline void give_registers() {}
template <int Registers>
inline void take_registers() {}

inline void publish_to_products() {}
inline void begin_products() {}
inline void commit_products() {}
template <int InFlight = 0>
inline void wait_products() {
  emulated::sync_warpgroup();
}

inline void keep(int&) {}

inline void store_shared(u32 address, u32 value) {
  emulated::check_shared(address, 4);
  memcpy(emulated::shared_memory + address, &value, 4);
}

inline uint4 load_chunk(u32 address) {
  emulated::check_shared(address, 16);
  return *reinterpret_cast<const uint4*>(emulated::shared_memory + address);
}

inline float4 load_floats(u32 address) {
  emulated::check_shared(address, 16);
  return *reinterpret_cast<const float4*>(emulated::shared_memory + address);
}

inline void store_chunk(u32 address, uint4 value) {
  emulated::check_shared(address, 16);
  memcpy(emulated::shared_memory + address, &value, 16);
}

inline void clear_shared(u32 address) {
  emulated::check_shared(address, 16);
  memset(emulated::shared_memory + address, 0, 16);
}

inline int count_bits(u32 word) { return __popc(word); }

inline float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

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
