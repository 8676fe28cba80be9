// Memory of one call.
#pragma once

#include <cstdlib>

#include "types.h"

// A thread keeps its last scratch memory: fresh pages cost more than a small convolution.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // Pieces of the given sizes, each at a cache line's start. False where there is no memory.
  template <int N>
  bool take(const i64 (&bytes)[N], u8* (&memory)[N]) {
    i64 total = 0;
    for (i64 size : bytes) total += rounded(size);
    if (kept().bytes < total) {
      std::free(kept().memory);
      kept().memory = std::aligned_alloc(kLine, static_cast<size_t>(total));
      kept().bytes = kept().memory == nullptr ? 0 : total;
      if (kept().memory == nullptr) return false;
    }
    u8* at = static_cast<u8*>(kept().memory);
    for (int i = 0; i < N; ++i) {
      memory[i] = at;
      at += rounded(bytes[i]);
    }
    return true;
  }

  // Large memory goes back at once.
  ~Scratch() {
    if (kept().bytes > kMostKept) kept().release();
  }

 private:
  static constexpr i64 kLine = 64;
  static constexpr i64 kMostKept = 16 << 20;

  struct Kept {
    void* memory = nullptr;
    i64 bytes = 0;
    void release() {
      std::free(memory);
      memory = nullptr;
      bytes = 0;
    }
    ~Kept() { release(); }
  };

  static Kept& kept() {
    static thread_local Kept of_thread;
    return of_thread;
  }

  static i64 rounded(i64 bytes) { return (bytes + kLine - 1) / kLine * kLine; }
};
