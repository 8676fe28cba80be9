// Launches that begin before the launch before them has ended (programmatic dependent launch, on
// Hopper and newer): their blocks start as soon as there is room, and wait here.
#pragma once

// Stands before a block's first access to global memory. Whatever the stream did before is done
// then, and its writes are visible. The next launch may begin now: it waits for all of this one,
// and so never overtakes more than one.
__device__ inline void wait_for_launch_before() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
