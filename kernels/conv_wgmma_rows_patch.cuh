// The producers of conv_wgmma_rows, a warpgroup: they have rows of images copied into patches, and
// say where each pixel's first tap lies there. A warp issues its lanes' copies one after the other,
// about 60 cycles each, so that the rows are dealt out to four.
#pragma once

#include "conv_wgmma_ring.cuh"
#include "conv_wgmma_rows_places.cuh"

constexpr u32 kPadWord = PAD_ONES ? ~0u : 0u;

// The rows of the stack of padded images that a tile reads.
struct PatchRows {
  int image;  // the first row's
  int row;    // of the padded image
  int count;

  static __device__ PatchRows of(const WgmmaArguments& a, int tile) {
    const int first = divide_by(tile * kTileM, a.by_out_width);
    const int last = divide_by(tile * kTileM + kTileM - 1, a.by_out_width);
    const int image = divide_by(first, a.by_out_height);
    const int images_on = divide_by(last, a.by_out_height) - image;
    const int out_height = static_cast<int>(a.out_height);
    const int step = static_cast<int>(a.step_rows);
    const int rows_on = (last - first - images_on * out_height) * step;
    return {image, (first - image * out_height) * step,
            images_on * static_cast<int>(a.image_rows) + rows_on + static_cast<int>(a.reach_rows)};
  }
};

// Rows outside the images: nothing is copied there. Bits of `rows` are a producer's rows.
__device__ inline void fill_rows(const WgmmaArguments& a, u32 rows, u32 target) {
  if (rows == 0) return;
  for (; rows != 0; rows >>= 1) {
    if (rows & 1) {
      for (int i = threadIdx.x % 32 * 16; i < static_cast<int>(a.row_bytes); i += 32 * 16) {
        fill_shared(target + i, kPadWord);
      }
    }
    target += kProducers * static_cast<u32>(a.pitch_bytes);
  }
  order_before_copies();
}

// A row a lane, of every fourth.
__device__ inline void fill_patch(const WgmmaArguments& a, const PatchRows& rows, int producer,
                                  u32 patch, u32 full) {
  const int lane = threadIdx.x % 32;
  const int row_bytes = static_cast<int>(a.row_bytes);
  const u32 inside_rows = patch + static_cast<u32>(a.inside_bytes);
#pragma unroll 1
  for (int first = producer; first < rows.count; first += 32 * kProducers) {
    const int row = first + lane * kProducers;
    const int images_on = divide_by(rows.row + row, a.by_image_rows);
    const int in_image = rows.row + row - images_on * static_cast<int>(a.image_rows);
    const int image = rows.image + images_on;
    const int image_row =
        in_image * static_cast<int>(a.skip_rows) - static_cast<int>(a.padding_rows);
    // (Past the last image, rows are read for pixels that do not exist.)
    const bool wanted = row < rows.count && image < static_cast<int>(a.batch);
    const bool inside = wanted && static_cast<u32>(image_row) < static_cast<u32>(a.height);
    const u32 target = inside_rows + row * static_cast<int>(a.pitch_bytes);
    const u32 copied = __ballot_sync(kAllLanes, inside);
    fill_rows(a, __ballot_sync(kAllLanes, wanted && !inside),
              inside_rows + first * static_cast<int>(a.pitch_bytes));
    if (lane == 0) expect_bytes(full, __popc(copied) * row_bytes);
    __syncwarp();
    if (inside) {
      const int source = image * static_cast<int>(a.height) + image_row;
      copy_row(target, a.x + static_cast<i64>(source) * (row_bytes / 4), row_bytes, full);
    }
  }
}

__device__ inline void produce(const Work& work, int producer) {
  const WgmmaArguments& a = work.a;
  Stage stage;
  PlaceWalk walk = PlaceWalk::from(work);
#pragma unroll 1
  for (int tile = work.first_tile; tile < static_cast<int>(a.pixel_tiles); tile += work.walkers) {
    const PatchRows rows = PatchRows::of(a, tile);
    const u32 places = stage.patch(a, work.shared + work.layout.patches);
    const u32 patch = places + Places::kBytes;
    const u32 full = work.shared + Layout::kFull + 8 * stage.index;
    wait_barrier(work.shared + Layout::kEmpty + 8 * stage.index, stage.phase ^ 1);
    fill_patch(a, rows, producer, patch, full);
    if (tile == work.first_tile) wait_barrier(work.shared + Layout::kSpotted, 0);
    // Where the first of the padded images would begin.
    const int above = rows.image * static_cast<int>(a.image_rows) + rows.row;
    walk.write(patch - above * static_cast<u32>(a.pitch_bytes), places);
    arrive(full);  // each thread for what it has written
    stage.advance(a);
  }
}

// The padding beside the images, which no copy reaches: every fourth patch, a row a lane. What
// other producers copy between stands when all have arrived.
__device__ inline void fill_sides(const WgmmaArguments& a, u32 patches, int producer) {
  const u32 pitch = static_cast<u32>(a.pitch_bytes);
  const u32 inside = static_cast<u32>(a.inside_bytes);
  const u32 right = inside + static_cast<u32>(a.row_bytes);
  const u32 stage_bytes = static_cast<u32>(a.stage_bytes);
#pragma unroll 1
  for (int stage = producer; stage < static_cast<int>(a.stages); stage += kProducers) {
    const u32 patch = patches + stage * stage_bytes + Places::kBytes;
    const u32 end = patch + stage_bytes - Places::kBytes;
#pragma unroll 1
    for (u32 row = patch + threadIdx.x % 32 * pitch; row + pitch <= end; row += 32 * pitch) {
#pragma unroll 1
      for (u32 to = 0; to < inside; to += 16) fill_shared(row + to, kPadWord);
#pragma unroll 1
      for (u32 to = right; to < pitch; to += 16) fill_shared(row + to, kPadWord);
    }
  }
}
