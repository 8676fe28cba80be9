// A float convolution of one to four input channels, as at the start of a network (its stem), on
// the 16-bit tensor cores of sm_80 and newer: sums in float32, and after them what follows the
// convolution, or only the bits of that (see stem_tile.cuh for the macros).
//
// Blocks are small and several share a multiprocessor: while one waits for its patch, others
// multiply or store.
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

  LaneOutput output = LaneOutput::of(a, channels.first);
  const Places places = Places::of(shared);
#pragma unroll 1
  for (int index = block / groups; index < a.tiles; index += static_cast<int>(a.walkers)) {
    const Tile tile = Tile::at(a, index);
    __syncthreads();  // the patch before has been read
    load_patch(a, tile, dynamic);
    output.move_to(a, tile);
    __syncthreads();
#pragma unroll 1
    for (int pass = 0; pass < kWarpRows / kPassRows; ++pass) {
      Products products = Products::of(places.of_pass(pass));
#pragma unroll 1
      for (int i = 0; i == 0 || i < channels.count; ++i) {  // (There is one.)
        const u32 filters = shared + kTilesAt + i * kTileBytes;
        Sums sums;
        products.multiply(sums, filters);
        hold();
        store(output, sums, i * kTileChannels, filters + kFilterBytes);
      }
      output.next_pass();
    }
  }
}
