// What a path (the code for one instruction set) offers, and the plan of a convolution that its
// functions work by.
#pragma once

#include "abi.h"

struct ConvPlan;
struct PackJob;

// How a path lays out operands. Activations are elements of `element_bytes` each: words of 32
// channels, or nibbles of 4 channels in bytes of their own. A weight vector holds one element of
// each of `lanes` output channels; `vectors` of them make a block.
struct Layout {
  i64 element_bytes;
  i64 element_channels;
  i64 lanes;
  i64 vectors;
  i64 vector_bytes;
  i64 pixels;        // of a register tile, at most
  bool skips_edges;  // see Rows
};

struct ConvCall {
  const ConvPlan* plan;
  const ConvPointers* pointers;
  const void* activations;
  const void* prepared;
  i64 first_image;
  i64 images;
};

struct Path {
  const char* name;
  bool (*runs)();
  Layout layout;
  // Each does one of `parts` equal shares of a job.
  void (*pack)(const PackJob&, i64 part, i64 parts);
  void (*unpack)(const UnpackSpec&, const void* packed, void* out, i64 part, i64 parts);
  void (*pad)(const ConvPlan&, i64 images, void* activations, i64 part, i64 parts);
  void (*expand)(const ConvPlan&, const void* packed, i64 first_image, i64 images,
                 void* activations, i64 part, i64 parts);
  void (*prepare)(const ConvPlan&, const void* packed, void* prepared, i64 part, i64 parts);
  void (*convolve)(const ConvCall&, i64 part, i64 parts);
  // In place, the values of `count` channels from `first` on.
  void (*normalize)(const Norm&, i64 first, i64 count, float* values);
  // Runs the innermost instructions `steps` times: operations done. And those of the usual way to
  // count bits, where the path has a better one.
  double (*peak)(i64 steps);
  double (*usual_peak)(i64 steps);
};

// Best first.
extern const Path* const kPaths[];
extern const int kPathCount;

// A share [begin, end) of `count` things.
struct Share {
  i64 begin;
  i64 end;
  Share(i64 count, i64 part, i64 parts)
      : begin(count * part / parts), end(count * (part + 1) / parts) {}
};
