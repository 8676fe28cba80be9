// Barriers, which have no C++ name: in shared memory (sm_80 and newer), and those of the block by
// number.
#pragma once

#include "types.cuh"

__device__ inline void init_barrier(u32 barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;"
               :
               : "r"(barrier), "r"(arrivals)
               : "memory");
}

__device__ inline void arrive(u32 barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" : : "r"(barrier) : "memory");
}

// (Where the processor cannot sleep until then, a thread asks again and again.)
#if __CUDA_ARCH__ >= 900
#define WAIT "try_wait"
#else
#define WAIT "test_wait"
#endif

// Waits for the phase of this parity to end; on a fresh barrier, parity 1 has ended already.
__device__ inline void wait_barrier(u32 barrier, u32 parity) {
  u32 done;
  do {
    asm volatile(
        "{\n\t"
        ".reg .pred done;\n\t"
        "mbarrier." WAIT
        ".parity.shared::cta.b64 done, [%1], %2;\n\t"
        "selp.u32 %0, 1, 0, done;\n\t"
        "}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
  } while (done == 0);
}

#undef WAIT

// A barrier of Threads threads of the block; 0 is the one of __syncthreads.
template <int Threads>
__device__ inline void sync_threads(int index) {
  asm volatile("bar.sync %0, %1;" : : "r"(index), "n"(Threads) : "memory");
}

// Arrives at such a barrier without waiting there.
template <int Threads>
__device__ inline void arrive_threads(int index) {
  asm volatile("bar.arrive %0, %1;" : : "r"(index), "n"(Threads) : "memory");
}
