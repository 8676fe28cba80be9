// Convolution on the 1-bit tensor cores (sm_80 and newer) as an implicit matrix product: rows are
// output pixels, columns output channels, and the depth runs over taps and words of channels.
//
// A block keeps its channels and walks over tiles of pixels. Its filters stay in shared memory if
// they fit, else they come with each stage. Patches of input pixels come a stage ahead: the next
// tile's first is under way while this one is stored. popc(a) is counted once per input pixel, not
// per tap.
#if PRODUCERS > 0
#include "conv_mma_pipeline.cuh"
#else
#include "conv_mma_in_step.cuh"
#endif
#include "overlap.cuh"

// What a block needs for all of its tiles.
__device__ inline void set_up(const MmaArguments& a, const Block& block, u8* shared) {
  describe_chunks(a, at<Chunk>(shared, a.chunks_at));
  describe_taps(a, at<int>(shared, a.taps_at));
  wait_for_launch_before();
  Channel<OUT>* channels = at<Channel<OUT>>(shared, a.channels_at);
#pragma unroll 1
  for (int n = static_cast<int>(threadIdx.x); n < block.channels; n += kThreads) {
    channels[n] = Channel<OUT>::load(a, block.first_channel + n);
  }
}

extern "C" __global__ void __launch_bounds__(kThreads, kBlocks)
    conv_mma(const __grid_constant__ MmaArguments a) {
  extern __shared__ __align__(128) u8 dynamic[];
  const int channel_tiles = static_cast<int>(a.channel_tiles);
  const Block block = Block::at(a, static_cast<int>(blockIdx.x) % channel_tiles);
  const Walk walk = Walk::from(static_cast<int>(blockIdx.x) / channel_tiles);
  set_up(a, block, dynamic);
  walk_over_tiles(a, block, walk, dynamic);
}
