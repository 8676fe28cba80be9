// Stands in for kernels/barriers.cuh, whose functions are single instructions.
#pragma once

#include "types.cuh"

namespace emulated {

// A barrier in shared memory: its word holds the pending arrivals below, the wanted ones above, the
// bytes on their way, and the parity of its phase in the top bit.
constexpr u64 kCountBits = 20;
constexpr u64 kCountMask = (1ull << kCountBits) - 1;

constexpr int kBytesBit = 2 * kCountBits;
constexpr u64 kBytesMask = (1ull << 23) - 1;

inline u64& barrier_word(u32 address) {
  check_shared(address, 8);
  return *reinterpret_cast<u64*>(shared_memory + address);
}

// Barriers of the block by number, each with its own count of threads.
static Barrier named_barriers[16];
inline void end_phase_if_done(u64& word) {
  if ((word & kCountMask) != 0 || (word >> kBytesBit & kBytesMask) != 0) return;
  word |= word >> kCountBits & kCountMask;
  word ^= 1ull << 63;
}

struct Row {
  u32 target;
  const void* source;
  int bytes;
  u32 barrier;
};
static std::vector<Row> rows_on_their_way;

inline void deliver_a_row() {
  if (rows_on_their_way.empty()) return;
  random_state = random_state * 1664525u + 1013904223u;
  const size_t which = (random_state >> 8) % rows_on_their_way.size();
  const Row row = rows_on_their_way[which];
  rows_on_their_way.erase(rows_on_their_way.begin() + which);
  memcpy(shared_memory + row.target, row.source, row.bytes);
  u64& word = barrier_word(row.barrier);
  if ((word >> kBytesBit & kBytesMask) < static_cast<u64>(row.bytes))
    fail("a row that its barrier does not expect");
  word -= static_cast<u64>(row.bytes) << kBytesBit;
  end_phase_if_done(word);
}

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
  emulated::end_phase_if_done(word);
}

inline void wait_barrier(u32 barrier, u32 parity) {
  while (emulated::barrier_word(barrier) >> 63 == parity) {
    emulated::deliver_a_row();
    emulated::yield();
  }
}

template <int Threads>
inline void sync_threads(int index) {
  emulated::arrive(emulated::named_barriers[index], Threads);
}

template <int Threads>
inline void arrive_threads(int index) {
  emulated::arrive_without_waiting(emulated::named_barriers[index], Threads);
}
