// Producers describe pixels, copy patches (and filters that do not stay) and count bits, up to
// `slots` stages ahead; consumers multiply and store, and find ready all that they need of a row.
// Nothing but the ring's barriers holds warps together.
#pragma once

#include "conv_mma_counts.cuh"
#include "conv_mma_product.cuh"
#include "conv_mma_store.cuh"
#include "conv_mma_walk.cuh"

// A slot of the ring is filled, and used up.
struct RingBarriers {
  u32 first;
  int slots;

  static __device__ RingBarriers at(const MmaArguments& a, u8* shared) {
    return {shared_address(shared + static_cast<int>(a.barriers_at)), static_cast<int>(a.slots)};
  }

  __device__ u32 filled(int slot) const { return first + slot * 8; }
  __device__ u32 used(int slot) const { return first + (slots + slot) * 8; }

  __device__ void init() const {
    for (int slot = 0; slot < slots; ++slot) {
      init_barrier(filled(slot), kCopiers);
      init_barrier(used(slot), kConsumers);
    }
  }
};

__device__ inline void produce(const MmaArguments& a, const Block& block, Walk now, u8* shared) {
  const RingBarriers ring = RingBarriers::at(a, shared);
  const int tiles = static_cast<int>(a.pixel_tiles);
  Walk ahead = now;
  int loads = 0;
  int last_entries = 0;  // of the patch of the last stage that was started
#pragma unroll 1
  while (now.tile < tiles) {
    const int entries_before = last_entries;
    if (ahead.tile < tiles) wait_barrier(ring.used(ahead.slot), ahead.lap ^ 1);
    load_stage(a, block, ahead, last_entries, shared);
    // A stage is counted when the next one's copies are on their way; but consumers wait for the
    // very first, and so that is counted before the second is begun.
    ++loads;
    if (loads == 2) continue;
    if (loads == 1) commit_copies();
    wait_copies<1>();
    const int entries = loads == 1 ? last_entries : entries_before;
    int* set_bits = now.set_bits(a, shared);
    count_set_bits(a, entries, now.stage, now.address(a, shared), set_bits);
    if (now.is_last_stage(a)) {
      sync_threads<kCopiers>(kCopierBarrier);
      describe_rows<kTileM, kCopiers>(a, copier_index(), now.spots(a, shared),
                                      at<int>(shared, a.taps_at), set_bits,
                                      at<Row>(shared, a.rows_at) + now.turn * kTileM);
    }
    arrive(ring.filled(now.slot));  // each thread for what it has written
    now.advance(a);
  }
}

__device__ inline void consume(const MmaArguments& a, const Block& block, Walk now, u8* shared) {
  static_assert(WARPS_K == 1);
  if (a.resident) {
    load_all_filters(a, block, shared);
    commit_copies();
    wait_copies<0>();
    sync_consumers();
  }
  fill_table(a, block, at<Channel<OUT>>(shared, a.channels_at), a.resident ? shared : nullptr,
             at<int>(shared, a.table_at));
  sync_consumers();

  const RingBarriers ring = RingBarriers::at(a, shared);
  const auto finish =
      Finish<OUT>::of(block, Warp::of_thread(), at<Channel<OUT>>(shared, a.channels_at));
  Sums sums = {};
#pragma unroll 1
  while (now.tile < static_cast<int>(a.pixel_tiles)) {
    wait_barrier(ring.filled(now.slot), now.lap);
    // Not kept from stage to stage: registers are few.
    const Warp warp = Warp::of_thread();
    Operands operands = Operands::of(a, warp, shared);
    operands.enter(now.spots(a, shared), warp);
    multiply_stage(a, sums, operands, warp, shared_address(now.address(a, shared)),
                   shared_address(now.filters(a, shared)));
    __syncwarp();
    if (lane_index() == 0) arrive(ring.used(now.slot));
    if (now.is_last_stage(a)) {
      const Row* rows = at<Row>(shared, a.rows_at) + now.turn * kTileM + warp.m * WARP_M;
      store_tile<OUT>(a, block, now.tile * kTileM, warp, finish, shared, rows, sums);
      clear(sums);
    }
    now.advance(a);
  }
}

__device__ inline void walk_over_tiles(const MmaArguments& a, const Block& block, Walk first,
                                       u8* shared) {
  if (thread_index() == 0) RingBarriers::at(a, shared).init();
  __syncthreads();  // these, and what the block needs for all tiles
  if (thread_index() < kConsumerThreads) {
    consume(a, block, first, shared);
  } else {
    produce(a, block, first, shared);
  }
}
