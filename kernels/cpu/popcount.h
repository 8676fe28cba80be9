// Counting differing bits with a population count: a lane is an output channel, and a step takes
// one word of its weights and the same word of a pixel's activations.
#pragma once

#include "types.h"

namespace BINOP_PATH {

template <class Words, int MostPixels, int MostVectors>
struct Popcount {
  using Element = u32;
  static constexpr int kLanes = Words::kLanes;
  static constexpr int kVectorBytes = 4 * kLanes;
  static constexpr int kPixels = MostPixels;
  static constexpr int kVectors = MostVectors;
  static constexpr int kElementChannels = kWordBits;
  static constexpr bool kSkipsEdges = true;
  using Vector = typename Words::Vector;

  static Vector zero() { return Words::zero(); }
  static Vector weight(const u8* at) { return Words::load(at); }
  static Vector activation(const u32* at) { return Words::broadcast(at); }
  static Vector step(Vector sum, Vector activation, Vector weight) {
    return Words::count(sum, activation, weight);
  }

  template <int P, int V>
  struct Counter {
    Vector sum[P][V];
    i32* totals;
    int room = Words::kSteps;
    bool first = true;

    explicit Counter(i32* to) : totals(to) { clear(); }

    void clear() {
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sum[p][v] = Words::zero();
      }
    }

    // `steps` words of the pixels from Begin to End, from `offset` on.
    template <int Begin = 0, int End = P>
    void run(const u8* const* pixel, i64 offset, const u8* weights, i64 steps) {
      const u32* at[P];
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) at[p] = reinterpret_cast<const u32*>(pixel[p] + offset);
      if (Words::kSteps == 0) {
        few<Begin, End>(at, 0, weights, steps);
        return;
      }
      for (i64 done = 0; done < steps;) {
        const i64 count = smaller<i64>(steps - done, room);
        few<Begin, End>(at, done, weights + done * (V * kVectorBytes), count);
        done += count;
        room -= static_cast<int>(count);
        if (room == 0) {
          finish();
          clear();
          room = Words::kSteps;
        }
      }
    }

    template <int Begin, int End>
    void few(const u32* const* at, i64 begin, const u8* weights, i64 steps) {
      for (i64 step = 0; step < steps; ++step) {
        Vector weight[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) weight[v] = Popcount::weight(weights + v * kVectorBytes);
        weights += V * kVectorBytes;
#pragma GCC unroll 8
        for (int p = Begin; p < End; ++p) {
          const Vector activation = Popcount::activation(at[p] + begin + step);
#pragma GCC unroll 8
          for (int v = 0; v < V; ++v) sum[p][v] = Popcount::step(sum[p][v], activation, weight[v]);
        }
      }
    }

    // Adds what was counted to the totals.
    void finish() {
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
          Words::widen(sum[p][v], totals + (p * V + v) * kLanes, first);
        }
      }
      first = false;
    }
  };
};

}  // namespace BINOP_PATH
