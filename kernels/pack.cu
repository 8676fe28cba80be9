// pack: signs (and the clip mask) of a tensor as bits, NHWC; with -DFILTERS=1 also the signs of a
// second tensor, by blocks of their own: one launch for both operands of a convolution.
//
// Compiled with -DLAYOUT=<flat|planes|strided> for the first tensor, and for planes with
// -DVECTOR=<pixels of one load>. Memory-bound.
#include "overlap.cuh"
#include "pack_filters.cuh"
#include "pack_flat.cuh"
#include "pack_strided.cuh"
#ifdef VECTOR
#include "pack_planes.cuh"
#endif

#define JOIN(first, second) first##second
#define PACK(layout) JOIN(pack_, layout)

extern "C" __global__ void __launch_bounds__(kThreads)
    pack(const __grid_constant__ PackArguments a) {
  wait_for_launch_before();
#if FILTERS
  if (blockIdx.x < a.filter_blocks) {
    pack_filters(a, blockIdx.x);
    return;
  }
#endif
  PACK(LAYOUT)(a, static_cast<i64>(blockIdx.x) - a.filter_blocks);
}
