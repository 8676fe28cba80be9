// Bits of float tensors of any strides, channels last, without a transposed copy of the floats.
#pragma once

#include "bits.h"
#include "plan.h"

namespace BINOP_PATH {

// Pixels whose words are made together: enough for the prefetcher to follow each of 32 planes.
constexpr int kChunk = 64;

// A run of pixels that are equally far apart in memory, at most kChunk of them.
struct Chunk {
  i64 source;  // element of the first pixel and channel 0
  i64 count;
  i64 target[kChunk];  // byte of each pixel in the output
};

template <class Bits>
struct Packer {
  const PackJob& job;
  Predicate predicate;
  i64 group_channels;
  i64 words;  // of a group
  i64 run, runs, chunks;
  bool rows_join;  // the image is one run of pixels

  explicit Packer(const PackJob& pack_job) : job(pack_job) {
    predicate = sign_predicate(job.x.dtype);
    if (job.mask) predicate = {static_cast<Bits>(~Bits(0)) >> 1, job.most, 0};
    group_channels = job.x.shape[1] / job.groups;
    words = divide_up(group_channels, kWordBits);
    const i64 height = job.x.shape[2];
    const i64 width = job.x.shape[3];
    rows_join = height == 1 || job.x.stride[2] == width * job.x.stride[3];
    run = rows_join ? height * width : width;
    runs = rows_join ? 1 : height;
    chunks = divide_up(run, kChunk);
  }

  void share(i64 part, i64 parts) const {
    const i64 per_image = runs * chunks;
    const Share range(job.images * per_image, part, parts);
    for (i64 index = range.begin; index < range.end; ++index) {
      const i64 image = index / per_image;
      const i64 rest = index - image * per_image;
      const i64 row = rest / chunks;
      Chunk chunk;
      place(chunk, image, row, (rest - row * chunks) * kChunk);
      for (i64 group = 0; group < job.groups; ++group) {
        for (i64 word = 0; word < words; ++word) pack(chunk, group, word);
      }
    }
  }

  void place(Chunk& chunk, i64 image, i64 row, i64 first) const {
    const i64 width = job.x.shape[3];
    chunk.count = smaller<i64>(kChunk, run - first);
    chunk.source = (job.first_image + image) * job.x.stride[0] + row * job.x.stride[2] +
                   first * job.x.stride[3];
    i64 h = rows_join ? first / width : row;
    i64 w = rows_join ? first - h * width : first;
    const i64 origin = image * job.image_pitch;
    for (i64 i = 0; i < chunk.count; ++i) {
      chunk.target[i] = (origin + h * job.row_pitch + w * job.pixel_pitch) * job.element_bytes;
      if (++w == width) w = 0, ++h;
    }
  }

  void pack(const Chunk& chunk, i64 group, i64 word) const {
    const i64 channel = group * group_channels + word * kWordBits;
    const i64 channels = smaller<i64>(kWordBits, group_channels - word * kWordBits);
    const Bits* from =
        static_cast<const Bits*>(job.data) + chunk.source + channel * job.x.stride[1];
    u32 made[kChunk];
    if (job.none) {
      std::memset(made, 0, sizeof(made));
    } else if (job.x.stride[1] == 1) {
      flat(from, chunk.count, channels, made);
    } else if (job.x.stride[3] != 1) {
      planes<0>(from, chunk.count, channels, made);
    } else if (chunk.count == kChunk) {
      planes<kChunk>(from, kChunk, channels, made);
    } else if (chunk.count == 9) {  // a 3x3 filter
      planes<9>(from, 9, channels, made);
    } else {
      planes<1>(from, chunk.count, channels, made);
    }
    const Target target(job.element_bytes, job.elements, word);
    u8* out = static_cast<u8*>(job.out) + group * job.elements * job.element_bytes +
              target.bytes_before(word);
    for (i64 i = 0; i < chunk.count; ++i) target.put(out + chunk.target[i], made[i]);
  }

  // The channels of a pixel lie side by side.
  void flat(const Bits* from, i64 pixels, i64 channels, u32* made) const {
    const i64 pitch = job.x.stride[3];
    for (i64 i = 0; i < pixels; ++i, from += pitch) {
      made[i] =
          channels == kWordBits ? full_word(from, predicate) : part_word(from, channels, predicate);
    }
  }

  // The pixels of a channel lie side by side: a word's bit is set for many pixels at once.
  // `Fixed` pixels if it is above 1; 1: any number of them; 0: any strides.
  template <int Fixed>
  void planes(const Bits* from, i64 pixels, i64 channels, u32* __restrict made) const {
    const i64 count = Fixed > 1 ? Fixed : pixels;
    const i64 step = Fixed == 0 ? job.x.stride[3] : 1;
    const Predicate local = predicate;
    for (i64 i = 0; i < count; ++i) made[i] = 0;
    for (i64 c = 0; c < channels; ++c) {
      const Bits* plane = from + c * job.x.stride[1];
      for (i64 i = 0; i < count; ++i) made[i] |= passes_one(plane[i * step], local) << c;
    }
  }
};

inline void pack_share(const PackJob& job, i64 part, i64 parts) {
  switch (job.x.dtype) {
    case kFloat16:
    case kBfloat16:
      return Packer<u16>(job).share(part, parts);
    case kFloat32:
      return Packer<u32>(job).share(part, parts);
    case kFloat64:
      return Packer<u64>(job).share(part, parts);
    default:
      return Packer<u8>(job).share(part, parts);
  }
}

template <class Out>
void unpack_pixels(const UnpackSpec& spec, const u32* packed, Out* out, const Share& pixels,
                   Out plus, Out minus) {
  const i64 words = divide_up(spec.channels, kWordBits);
  for (i64 pixel = pixels.begin; pixel < pixels.end; ++pixel) {
    Out* to = out + pixel * spec.channels;
    for (i64 w = 0; w < words; ++w, to += kWordBits) {
      const u32 word = packed[pixel * words + w];
      const i64 count = smaller<i64>(kWordBits, spec.channels - w * kWordBits);
      if (count == kWordBits) {
        for (int i = 0; i < kWordBits; ++i) to[i] = (word & kWord.bit[i]) != 0 ? plus : minus;
      } else {
        for (i64 i = 0; i < count; ++i) to[i] = (word & kWord.bit[i]) != 0 ? plus : minus;
      }
    }
  }
}

inline void unpack_share(const UnpackSpec& spec, const void* packed, void* out, i64 part,
                         i64 parts) {
  const u32* words = static_cast<const u32*>(packed);
  const Share pixels(spec.pixels, part, parts);
  switch (spec.dtype) {
    case kFloat16:
      return unpack_pixels<u16>(spec, words, static_cast<u16*>(out), pixels, 0x3C00u, 0xBC00u);
    case kBfloat16:
      return unpack_pixels<u16>(spec, words, static_cast<u16*>(out), pixels, 0x3F80u, 0xBF80u);
    case kFloat32:
      return unpack_pixels<float>(spec, words, static_cast<float*>(out), pixels, 1, -1);
    case kFloat64:
      return unpack_pixels<double>(spec, words, static_cast<double*>(out), pixels, 1, -1);
    default:
      return unpack_pixels<u8>(spec, words, static_cast<u8*>(out), pixels, 0x01u, 0xFFu);
  }
}

}  // namespace BINOP_PATH
