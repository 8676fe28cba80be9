// What the kernels use of CUDA, on a CPU: a thread is a fiber, blocks run one after the other, and
// within a block the fibers take turns in random order at every barrier and warp-wide operation.
//
// It checks what it can: shared addresses and alignments, copies that nobody waited for (they
// arrive only with the wait), and reads of shared memory that nothing wrote (it starts as 0xA5
// bytes).
#pragma once

#include <ucontext.h>

#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#define __device__
#define __global__
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__ static

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

struct Index {
  unsigned x = 0;
};
static Index threadIdx, blockIdx, gridDim;

namespace emulated {

constexpr int kMaxThreads = 1024;  // of a block
constexpr int kStackBytes = 64 * 1024;
constexpr int kSharedBytes = 240 * 1024;

alignas(1024) static unsigned char shared_memory[kSharedBytes];
static unsigned shared_bytes = 0;

struct Copy {
  unsigned target;
  const void* source;
  int bytes;
  bool inside;
};

struct Fiber {
  std::vector<unsigned char> stack;
  ucontext_t start;
  jmp_buf resume;
  bool started;
  bool done;
  std::vector<Copy> open;  // copies since the last commit
  std::vector<std::vector<Copy>> groups;
};

struct Barrier {
  int arrived = 0;
  unsigned turn = 0;
};

static Fiber fibers[kMaxThreads];
static jmp_buf scheduler;
static int current;
static int living;
static Barrier block_barrier;
static Barrier warp_barriers[kMaxThreads / 32];
static unsigned long long exchanged[kMaxThreads / 32][32][8];
static unsigned random_state;

[[noreturn]] inline void fail(const char* why) {
  fprintf(stderr, "emulated kernel: %s (block %u, thread %d)\n", why, blockIdx.x, current);
  abort();
}

inline void yield() {
  if (_setjmp(fibers[current].resume) == 0) _longjmp(scheduler, 1);
}

inline void arrive(Barrier& barrier, int wanted) {
  const unsigned turn = barrier.turn;
  if (++barrier.arrived >= wanted) {
    barrier.arrived = 0;
    ++barrier.turn;
    return;
  }
  while (barrier.turn == turn) yield();
}

inline void arrive_without_waiting(Barrier& barrier, int wanted) {
  if (++barrier.arrived < wanted) return;
  barrier.arrived = 0;
  ++barrier.turn;
}

inline int lane() { return current % 32; }
inline void sync_warp() { arrive(warp_barriers[current / 32], 32); }

// Publishes some values of a lane and returns those of all lanes.
template <int Count>
inline unsigned long long (*exchange(const unsigned long long (&values)[Count]))[8] {
  auto* of_warp = exchanged[current / 32];
  sync_warp();  // all have read what was there
  for (int i = 0; i < Count; ++i) of_warp[lane()][i] = values[i];
  sync_warp();
  return of_warp;
}

template <class T, class Pick>
inline T shuffle(T value, Pick pick) {
  unsigned long long bits[1] = {};
  memcpy(bits, &value, sizeof value);
  memcpy(&value, exchange(bits)[pick(lane()) & 31], sizeof value);
  return value;
}

inline void check_shared(unsigned address, int bytes) {
  if (address + bytes > shared_bytes) fail("address beyond shared memory");
  if (address % bytes != 0) fail("misaligned address in shared memory");
}

inline float float_of_half(unsigned short half) {
  const int exponent = half >> 10 & 31;
  const int mantissa = half & 1023;
  float value = exponent == 0 ? mantissa * 0x1p-24f : 0.0f;
  if (exponent != 0) {
    const unsigned bits = (exponent == 31 ? 255u : exponent + 112u) << 23 | mantissa << 13;
    memcpy(&value, &bits, 4);
  }
  return half >> 15 ? -value : value;
}

inline unsigned short half_of_float(float value, bool to_nearest) {
  unsigned bits;
  memcpy(&bits, &value, 4);
  const unsigned sign = bits >> 16 & 0x8000u;
  bits &= 0x7FFFFFFFu;
  if (bits > 0x7F800000u) return 0x7FFF;
  if (bits == 0x7F800000u) return sign | 0x7C00u;
  const int exponent = static_cast<int>(bits >> 23) - 127;
  const unsigned mantissa = (bits & 0x7FFFFFu) | 0x800000u;
  const int shift = exponent < -14 ? 13 + (-14 - exponent) : 13;
  if (shift > 25) return sign;
  unsigned half =
      (exponent < -14 ? 0u : static_cast<unsigned>(exponent + 14) << 10) + (mantissa >> shift);
  const unsigned rest = mantissa & ((1u << shift) - 1u);
  const unsigned tie = 1u << (shift - 1);
  if (to_nearest && (rest > tie || (rest == tie && half % 2 == 1))) ++half;
  if (half >= 0x7C00u) half = to_nearest ? 0x7C00u : 0x7BFFu;
  return sign | half;
}

template <class Arguments>
struct Launch {
  static void (*kernel)(Arguments);
  static Arguments arguments;

  static void run_thread() {
    kernel(arguments);
    fibers[current].done = true;
    --living;
    if (living > 0 && block_barrier.arrived >= living) {
      block_barrier.arrived = 0;
      ++block_barrier.turn;
    }
    _longjmp(scheduler, 1);
  }

  static void resume(int thread) {
    Fiber& fiber = fibers[thread];
    current = thread;
    threadIdx.x = thread;
    if (_setjmp(scheduler) != 0) return;
    if (fiber.started) _longjmp(fiber.resume, 1);
    fiber.started = true;
    setcontext(&fiber.start);
  }

  static void run_block(int threads) {
    memset(shared_memory, 0xA5, sizeof shared_memory);
    living = threads;
    block_barrier = {};
    for (Barrier& barrier : warp_barriers) barrier = {};
    std::vector<int> order;
    for (int thread = 0; thread < threads; ++thread) {
      Fiber& fiber = fibers[thread];
      fiber.stack.resize(kStackBytes);
      fiber.started = fiber.done = false;
      fiber.open.clear();
      fiber.groups.clear();
      getcontext(&fiber.start);
      fiber.start.uc_stack.ss_sp = fiber.stack.data();
      fiber.start.uc_stack.ss_size = kStackBytes;
      fiber.start.uc_link = nullptr;
      makecontext(&fiber.start, run_thread, 0);
      order.push_back(thread);
    }
    while (living > 0) {
      for (int last = threads - 1; last > 0; --last) {
        random_state = random_state * 1664525u + 1013904223u;
        std::swap(order[last], order[(random_state >> 8) % (last + 1)]);
      }
      for (int round = random_state >> 20 & 63; round >= 0 && living > 0; --round) {
        for (int thread : order) {
          if (!fibers[thread].done) resume(thread);
        }
      }
    }
  }
};

template <class Arguments>
void (*Launch<Arguments>::kernel)(Arguments);
template <class Arguments>
Arguments Launch<Arguments>::arguments;

template <class Arguments>
void launch(void (*kernel)(Arguments), const void* arguments, unsigned blocks, int threads,
            unsigned dynamic_bytes, unsigned seed) {
  if (threads > kMaxThreads) fail("more threads than a block has");
  Launch<Arguments>::kernel = kernel;
  memcpy(static_cast<void*>(&Launch<Arguments>::arguments), arguments, sizeof(Arguments));
  random_state = seed;
  shared_bytes = dynamic_bytes;
  gridDim.x = blocks;
  for (unsigned block = 0; block < blocks; ++block) {
    blockIdx.x = block;
    Launch<Arguments>::run_block(threads);
  }
}

}  // namespace emulated

inline void __syncthreads() { emulated::arrive(emulated::block_barrier, emulated::living); }
inline void __syncwarp() { emulated::sync_warp(); }

template <class T>
inline T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulated::shuffle(value, [=](int lane) { return lane ^ mask; });
}
template <class T>
inline T __shfl_sync(unsigned, T value, int from) {
  return emulated::shuffle(value, [=](int) { return from; });
}
inline unsigned __ballot_sync(unsigned, bool vote) {
  const auto* votes = emulated::exchange({static_cast<unsigned long long>(vote)});
  unsigned all = 0;
  for (int lane = 0; lane < 32; ++lane) all |= static_cast<unsigned>(votes[lane][0]) << lane;
  return all;
}
inline bool __all_sync(unsigned mask, bool vote) { return __ballot_sync(mask, vote) == ~0u; }

inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32);
}
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const unsigned long long bytes = static_cast<unsigned long long>(high) << 32 | low;
  unsigned picked = 0;
  for (int i = 0; i < 4; ++i) {
    picked |= static_cast<unsigned>(bytes >> (selector >> 4 * i & 7) * 8 & 0xFF) << 8 * i;
  }
  return picked;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>(((static_cast<unsigned long long>(high) << 32 | low) << shift) >>
                               32);
}
template <class To, class From>
inline To same_bits(From from) {
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
inline float __uint_as_float(unsigned bits) { return same_bits<float>(bits); }
inline unsigned __float_as_uint(float value) { return same_bits<unsigned>(value); }
inline float __int_as_float(int bits) { return same_bits<float>(bits); }
inline int __float_as_int(float value) { return same_bits<int>(value); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
// A NaN has no sign, as a device has it.
inline float __fsub_rn(float a, float b) {
  const float difference = a - b;
  return difference == difference ? difference : __uint_as_float(0x7FFFFFFFu);
}
inline float __int2float_rn(int value) { return static_cast<float>(value); }
inline float __double2float_rn(double value) { return static_cast<float>(value); }
inline double __fma_rn(double a, double b, double c) { return __builtin_fma(a, b, c); }
inline float fabsf(float value) { return __builtin_fabsf(value); }
template <class T>
inline T __ldcs(const T* pointer) {
  return *pointer;
}
