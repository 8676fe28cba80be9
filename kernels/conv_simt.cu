// Convolution with the ordinary popcount instruction: for every architecture and every shape.
#include "conv_simt.cuh"

constexpr int kThreads = 128;

extern "C" __global__ void __launch_bounds__(kThreads, 2)
    conv_simt(const __grid_constant__ ConvArguments a) {
  constexpr int kWarps = kThreads / 32;
  const i64 channel_blocks = divide_up(a.out_channels, 32);
  const i64 tasks = divide_up(a.batch * a.out_height * a.out_width, kPixels) * channel_blocks;
  for (i64 task = static_cast<i64>(blockIdx.x) * kWarps + threadIdx.x / 32; task < tasks;
       task += static_cast<i64>(gridDim.x) * kWarps) {
    const i64 pixels = divide(task, channel_blocks);
    convolve(a, pixels * kPixels, (task - pixels * channel_blocks) * 32, a.weight, 0);
  }
}
