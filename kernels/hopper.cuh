// Instructions of sm_90a that have no C++ name: barriers in shared memory, registers handed from
// warpgroup to warpgroup, and what orders the matrix products of a warpgroup.
#pragma once

#include "tensor_core.cuh"

__device__ inline void init_barrier(u32 barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;"
               :
               : "r"(barrier), "r"(arrivals)
               : "memory");
}

__device__ inline void arrive(u32 barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" : : "r"(barrier) : "memory");
}

// Arrives once this thread's copies so far are in shared memory; does not wait for them.
__device__ inline void arrive_after_copies(u32 barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" : : "r"(barrier) : "memory");
}

// Waits for the phase of this parity to end; on a fresh barrier, parity 1 has ended already.
__device__ inline void wait_barrier(u32 barrier, u32 parity) {
  u32 done;
#ifdef WATCHDOG
  int tries = 0;
#endif
  do {
    asm volatile(
        "{\n\t"
        ".reg .pred done;\n\t"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n\t"
        "selp.u32 %0, 1, 0, done;\n\t"
        "}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
#ifdef WATCHDOG
    if (++tries > 20000) {
      if (threadIdx.x % 32 == 0)
        printf("block %d thread %d waits for %x parity %d\n", blockIdx.x, threadIdx.x, barrier,
               parity);
      return;
    }
#endif
  } while (done == 0);
}

// A barrier of Threads threads of the block; 0 is the one of __syncthreads.
template <int Index, int Threads>
__device__ inline void sync_threads() {
  asm volatile("bar.sync %0, %1;" : : "n"(Index), "n"(Threads) : "memory");
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

// Registers written before are read by the products after.
__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ inline void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits until at most Pending of the warpgroup's committed groups are unfinished.
template <int Pending>
__device__ inline void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" : : "n"(Pending) : "memory");
}
