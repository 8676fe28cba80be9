// A float convolution of one to four input channels, as at the start of a network (its stem), on
// the 16-bit tensor cores of sm_80 and newer: sums in float32, and after them what follows the
// convolution, or only the bits of that (see stem_tile.cuh for the macros).
//
// It bounds itself by memory (7x7, 64 channels of bfloat16), or by the instructions of its products
// and its epilogue (3x3, bits). Blocks are small and several share a multiprocessor: while one
// waits for its patch, others multiply.
#include "overlap.cuh"
#include "stem_patch.cuh"
#include "stem_store.cuh"

extern "C" __global__ void __launch_bounds__(kThreads, BLOCKS)
    stem(const __grid_constant__ StemArguments a) {
  extern __shared__ __align__(128) u8 dynamic[];
  const int groups = static_cast<int>(a.channel_groups);
  const int block = static_cast<int>(blockIdx.x);
  const ChannelTiles channels = ChannelTiles::of(a, block % groups);
  const u32 shared = shared_address(dynamic);

  write_table(reinterpret_cast<u32*>(dynamic + kTableAt));
  wait_for_launch_before();
  for (int i = static_cast<int>(threadIdx.x) / 32; i < channels.count; i += kWarps) {
    write_constants(a, channels.first + i * kTileChannels,
                    dynamic + kTilesAt + i * kTileBytes + kFilterBytes);
  }
  __syncthreads();
  arrange_filters(a, channels, dynamic + kTilesAt);
#if WIDE
  publish_to_products();
#endif

  LaneOutput output;
  Places places;
  if (kRegistersLeft) {
    output = LaneOutput::of(a, channels.first);
    places = Places::of(shared);
  }

#pragma unroll 1
  for (int index = block / groups; index < a.tiles; index += static_cast<int>(a.walkers)) {
    keep(index);      // What follows from it is computed again where it is needed.
    __syncthreads();  // the patch before has been read
    load_patch(a, Tile::at(a, index), dynamic);
    __syncthreads();
    if (kRegistersLeft) output.move_to(a, Tile::at(a, index));
#pragma unroll 1
    for (int pass = 0; pass < kWarpRows / kPassRows; ++pass) {
      if (!kRegistersLeft) places = Places::of(shared);
      Products products = Products::of(places.of_pass(pass));
#pragma unroll 1
      for (int i = 0; i == 0 || i < channels.count; ++i) {  // (There is one.)
        const u32 filters = shared + kTilesAt + i * kTileBytes;
        Sums sums;
        products.multiply(sums, filters);
        hold();
        if (!kRegistersLeft) {
          keep(index);
          output = LaneOutput::of(a, channels.first);
          output.move_to(a, Tile::at(a, index));
        }
        store(output, sums, i * kTileChannels, filters + kFilterBytes);
      }
      output.next_pass();
    }
  }
}
