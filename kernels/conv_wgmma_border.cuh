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

  template <class Arguments>
  static __device__ BorderAxis rows_of(const Arguments& a) {
    return {static_cast<int>(a.step_rows * a.skip_rows),
            static_cast<int>(a.padding_rows),
            static_cast<int>(a.tap_rows),
            a.tap_rows_inverse,
            static_cast<int>(a.reach_rows - a.height),
            static_cast<int>(a.cut_first_rows)};
  }

  template <class Arguments>
  static __device__ BorderAxis columns_of(const Arguments& a) {
    return {static_cast<int>(a.step_columns * a.skip_columns),
            static_cast<int>(a.padding_columns),
            static_cast<int>(a.tap_columns),
            a.tap_columns_inverse,
            static_cast<int>(a.reach_columns - a.width),
            static_cast<int>(a.cut_first_columns)};
  }

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
