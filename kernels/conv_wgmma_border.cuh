// Classes of border: which taps of an output lie outside the image, along one axis.
#pragma once

#include "conv_wgmma_channels.cuh"

// What an axis of the border classes needs: 0 where all taps are inside, then 1 to cut_first taps
// cut off at the start, then at the end. (The plan takes no shape where both ends are cut.)
struct BorderAxis {
  int step;  // of the image, from one output to the next
  int padding;
  int tap;
  i64 tap_inverse;
  int over;  // what the last tap of the first output is past the image's end, without padding
  int cut_first;

  __device__ int class_of(int output) const {
    const int start = output * step - padding;
    const int before = start < 0 ? -start + tap - 1 : 0;
    const int past = start + over;
    const int after = past > 0 ? past + tap - 1 : 0;
    return after > 0 ? cut_first + divide_small(after, tap_inverse)
                     : divide_small(before, tap_inverse);
  }
};

// The taps of an axis that a class leaves inside.
struct TapRange {
  int first;
  int end;

  static __device__ TapRange left_by(int border_class, int cut_first, int taps) {
    return {border_class <= cut_first ? border_class : 0,
            taps - (border_class > cut_first ? border_class - cut_first : 0)};
  }
};
