// Convolution with the ordinary popcount instruction. A lane owns one output channel, a warp 32
// channels of kPixels pixels: the activation words are broadcast (or, with groups, read side by
// side), and each weight word serves kPixels pixels.
#pragma once

#include "epilogue.cuh"

constexpr int kPixels = 4;

struct Pixel {
  i64 image;
  i64 row;  // of the input, under the first tap
  i64 column;
  int different;  // popc(a ^ b) over the counted taps
  int taps;       // their number
};

__device__ inline void accumulate(const ConvArguments& a, i64 group, const u32* weight,
                                  Pixel* pixels) {
  const i64 pixel_words = a.groups * a.group_words;
  const u32 last_mask = tail_mask(a.group_channels);
  const u32 outside = a.pad_value > 0 ? ~0u : 0u;
  for (i64 i = 0; i < a.kernel_rows; ++i) {
    for (i64 j = 0; j < a.kernel_columns; ++j) {
      const u32* source[kPixels];
#pragma unroll
      for (int p = 0; p < kPixels; ++p) {
        const i64 row = pixels[p].row + i * a.dilation_rows;
        const i64 column = pixels[p].column + j * a.dilation_columns;
        const bool inside = row >= 0 && row < a.height && column >= 0 && column < a.width;
        source[p] =
            inside ? a.x + ((pixels[p].image * a.height + row) * a.width + column) * pixel_words +
                         group * a.group_words
                   : nullptr;
        pixels[p].taps += inside || a.pad_value != 0;
      }
      for (i64 word = 0; word < a.group_words; ++word) {
        const u32 mask = word == a.group_words - 1 ? last_mask : ~0u;
        const u32 filter = *weight++;
#pragma unroll
        for (int p = 0; p < kPixels; ++p) {
          const bool inside = source[p] != nullptr;
          const u32 activation = inside ? source[p][word] : outside;
          if (inside || a.pad_value != 0)
            pixels[p].different += __popc((activation ^ filter) & mask);
        }
      }
    }
  }
}

template <class Out>
__device__ void store(const ConvArguments& a, i64 pixel, i64 channel, bool active,
                      typename Channel<Out>::Value value) {
  if (!active) return;
  i64 index = pixel * a.out_channels + channel;
  if (!a.channels_last) {
    const i64 plane = a.out_height * a.out_width;
    const i64 image = divide(pixel, plane);
    index = (image * a.out_channels + channel) * plane + pixel - image * plane;
  }
  static_cast<typename Out::Bits*>(a.out)[index] = value;
}

template <>
__device__ void store<bits>(const ConvArguments& a, i64 pixel, i64 channel, bool active,
                            u32 value) {
  const u32 word = __ballot_sync(kAllLanes, active && value != 0);
  if (channel % kWordBits == 0) {
    const i64 words = divide_up(a.out_channels, kWordBits);
    static_cast<u32*>(a.out)[pixel * words + channel / kWordBits] = word;
  }
}

// One task of a warp: kPixels pixels of 32 channels from `channel` on. `filters` are those of all
// channels from `first_filter` on.
__device__ inline void convolve(const ConvArguments& a, i64 first_pixel, i64 first_channel,
                                const u32* filters, i64 first_filter) {
  const i64 all_pixels = a.batch * a.out_height * a.out_width;
  const i64 out_per_group = divide(a.out_channels, a.groups);
  const i64 filter_words = a.kernel_rows * a.kernel_columns * a.group_words;
  const i64 channel = first_channel + threadIdx.x % 32;
  const bool active = channel < a.out_channels;
  const i64 loaded = active ? channel : a.out_channels - 1;

  Pixel pixels[kPixels];
#pragma unroll
  for (int p = 0; p < kPixels; ++p) {
    const i64 last = all_pixels - 1;
    const auto at = OutputPixel::at(a, first_pixel + p < last ? first_pixel + p : last);
    pixels[p] = {at.image, at.row, at.column, 0, 0};
  }
  accumulate(a, divide(loaded, out_per_group), filters + (loaded - first_filter) * filter_words,
             pixels);

  const auto constants = Channel<OUT>::load(a, loaded);
#pragma unroll
  for (int p = 0; p < kPixels; ++p) {
    const int dot = pixels[p].taps * static_cast<int>(a.group_channels) - 2 * pixels[p].different;
    const i64 pixel = first_pixel + p;
    if (pixel < all_pixels) store<OUT>(a, pixel, channel, active, constants.finish(dot));
  }
}
