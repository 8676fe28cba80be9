// Stands in for kernels/tensor_core.cuh, whose functions are single instructions.
#pragma once

#include "types.cuh"

template <int Bytes>
inline void copy_async(u32 address, const void* source, bool inside) {
  emulated::check_shared(address, Bytes);
  if (reinterpret_cast<uintptr_t>(source) % Bytes != 0)
    emulated::fail("misaligned source of a copy");
  emulated::fibers[emulated::current].open.push_back({address, source, Bytes, inside});
}

inline void commit_copies() {
  auto& fiber = emulated::fibers[emulated::current];
  fiber.groups.push_back(fiber.open);
  fiber.open.clear();
}

template <int Pending>
inline void wait_copies() {
  auto& groups = emulated::fibers[emulated::current].groups;
  while (groups.size() > Pending) {
    for (const auto& copy : groups.front()) {
      unsigned char* target = emulated::shared_memory + copy.target;
      if (copy.inside) {
        memcpy(target, copy.source, copy.bytes);
      } else {
        memset(target, 0, copy.bytes);
      }
    }
    groups.erase(groups.begin());
  }
}

inline int thread_index() { return threadIdx.x; }

inline u16 load_if(bool exists, const void* from) {
  return exists ? *static_cast<const u16*>(from) : 0;
}

inline u32 load_shared(u32 address) {
  emulated::check_shared(address, 4);
  u32 value;
  memcpy(&value, emulated::shared_memory + address, 4);
  return value;
}

inline uint4 load_chunk(u32 address) {
  emulated::check_shared(address, 16);
  return *reinterpret_cast<const uint4*>(emulated::shared_memory + address);
}

inline u32 shared_address(const void* pointer) {
  return static_cast<const unsigned char*>(pointer) - emulated::shared_memory;
}

inline void load_matrices(u32 (&registers)[4], u32 address) {
  emulated::check_shared(address, 16);
  const auto* addresses = emulated::exchange({static_cast<u64>(address)});
  const int lane = emulated::lane();
  for (int matrix = 0; matrix < 4; ++matrix) {
    const u64 row = addresses[matrix * 8 + lane / 4][0];
    memcpy(&registers[matrix], emulated::shared_memory + row + 4 * (lane % 4), 4);
  }
}

// The fragments of mma.m16n8k256: lane 4g+t holds rows g and g + 8 of a, column g of b, of each the
// words t and t + 4, and of the sums rows g and g + 8, columns 2t and 2t + 1.
inline void multiply_bits(int (&sums)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  const auto* all =
      emulated::exchange({static_cast<u64>(a[0]), static_cast<u64>(a[1]), static_cast<u64>(a[2]),
                          static_cast<u64>(a[3]), static_cast<u64>(b0), static_cast<u64>(b1)});
  const int row = emulated::lane() / 4;
  const int column = emulated::lane() % 4 * 2;
  for (int i = 0; i < 4; ++i) {
    for (int word = 0; word < 8; ++word) {
      const u64 of_a = all[row * 4 + word % 4][word / 4 * 2 + i / 2];
      const u64 of_b = all[(column + i % 2) * 4 + word % 4][4 + word / 4];
      sums[i] += __popc(static_cast<u32>(of_a & of_b));
    }
  }
}

inline u32 pair_of(int first, int second) {
  return static_cast<u32>(second) * 0x10000u + static_cast<u32>(first);
}

inline u32 spread_signs(u32 first, u32 second) {
  const u32 halves[4] = {first & 0xFFFFu, first >> 16, second & 0xFFFFu, second >> 16};
  u32 bytes = 0;
  for (int i = 0; i < 4; ++i) bytes |= (halves[i] >> 15 ? 0xFFu : 0u) << 8 * i;
  return bytes;
}

inline u32 add_signs(u32 sum, u32 signs, u32 weights) {
  for (int i = 0; i < 4; ++i) {
    const int sign = static_cast<signed char>(signs >> 8 * i & 0xFFu);
    sum += static_cast<u32>(sign * static_cast<int>(weights >> 8 * i & 0xFFu));
  }
  return sum;
}
