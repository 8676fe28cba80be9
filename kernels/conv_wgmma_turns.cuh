// Consumers multiply in turn, so that one stores while others' products run: left alone they fall
// into step, and the tensor cores wait for all of them to store.
#pragma once

#include "conv_wgmma_channels.cuh"

#ifndef TURNS
#define TURNS 0
#endif

struct Turns {
  static constexpr int kFirstBarrier = 2;  // one a consumer

  // The first consumer's first turn comes without one before it.
  static __device__ void begin(int consumer) {
    if constexpr (TURNS && CONSUMERS > 1) {
      if (consumer == CONSUMERS - 1) arrive_threads<2 * kWarpgroup>(kFirstBarrier);
    }
  }

  static __device__ void wait(int consumer) {
    if constexpr (TURNS && CONSUMERS > 1) sync_threads<2 * kWarpgroup>(kFirstBarrier + consumer);
  }

  // `last`: this was the consumer's last turn.
  static __device__ void pass(int consumer, bool last) {
    if constexpr (TURNS && CONSUMERS > 1) {
      if (consumer + 1 < CONSUMERS) {
        arrive_threads<2 * kWarpgroup>(kFirstBarrier + 1 + consumer);
      } else if (!last) {
        arrive_threads<2 * kWarpgroup>(kFirstBarrier);
      }
    }
  }
};
