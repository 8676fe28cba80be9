// The producers of conv_wgmma_in_place: four warps, each of which fills every fourth patch alone,
// so that as many are under way.
#pragma once

#include "conv_wgmma_block.cuh"
#include "conv_wgmma_border.cuh"
#include "conv_wgmma_entry.cuh"
#include "conv_wgmma_ring.cuh"

constexpr int kProducers = kWarpgroup / 32;

// A place in the stack of padded images.
struct Place {
  int image;
  int row;
  int column;

  static __device__ Place at(const WgmmaArguments& a, int index) {
    const int row = divide_by(index, a.by_patch_columns);
    const int image = divide_by(row, a.by_patch_rows);
    return {image, row - image * static_cast<int>(a.patch_rows),
            index - row * static_cast<int>(a.patch_columns)};
  }

  // By less than an image, each.
  __device__ void advance(const WgmmaArguments& a, const Place& by) {
    column += by.column;
    row += by.row;
    image += by.image;
    if (column >= static_cast<int>(a.patch_columns)) {
      column -= static_cast<int>(a.patch_columns);
      ++row;
    }
    if (row >= static_cast<int>(a.patch_rows)) {
      row -= static_cast<int>(a.patch_rows);
      ++image;
    }
  }
};

struct PatchFiller {
  Place lanes;  // 32 places
  BorderAxis rows;
  BorderAxis columns;
  EntryCopy entry;
  const u32* words;  // of the group

  static __device__ PatchFiller of(const WgmmaArguments& a, const Channels& channels) {
    return {Place::at(a, 32), BorderAxis::rows_of(a), BorderAxis::columns_of(a), EntryCopy::of(a),
            a.x + static_cast<i64>(channels.group) * a.group_words};
  }

  // Entries of the places from `first` on, and after them the words of the tile's rows.
  __device__ void fill(const WgmmaArguments& a, int first, int slab, u32 patch) const {
    const int lane = threadIdx.x % 32;
    const int entries = kTileM + static_cast<int>(a.reach_places);
    const u32 row_words = patch + PLANES * entry.plane_bytes;
    Place place = Place::at(a, first + lane);
#pragma unroll 1
    for (int i = lane; i < entries; i += 32) {
      const int image_row = place.row * static_cast<int>(a.skip_rows) - padding_rows(a);
      const int image_column = place.column * static_cast<int>(a.skip_columns) - padding_columns(a);
      const bool image_exists = place.image < static_cast<int>(a.batch);
      const bool row_inside =
          image_exists && static_cast<u32>(image_row) < static_cast<u32>(a.height);
      const bool inside =
          row_inside && (WORD_TAPS > 1 || static_cast<u32>(image_column) < static_cast<u32>(a.width));
      const i64 pixel = (static_cast<i64>(place.image) * a.height + image_row) * a.width + image_column;
      entry.copy(a, patch + i * kChunkBytes,
                 words + pixel * entry.pixel_words + slab * (PLANES * kChunkWords), image_column,
                 inside, slab);
      if (slab == 0 && i < kTileM) describe(a, place, image_exists, RowWords::at(row_words, i));
      place.advance(a, lanes);
    }
  }

 private:
  static __device__ int padding_rows(const WgmmaArguments& a) {
    return static_cast<int>(a.padding_rows);
  }
  static __device__ int padding_columns(const WgmmaArguments& a) {
    return static_cast<int>(a.padding_columns);
  }

  // Places between images have no output pixel.
  __device__ void describe(const WgmmaArguments& a, const Place& place, bool image_exists,
                           u32 target) const {
    const int height = static_cast<int>(a.out_height);
    const int width = static_cast<int>(a.out_width);
    const bool exists = image_exists && place.row < height && place.column < width;
    int border = 0;
    if (exists && Layout::classes(a) > 1) {
      border = rows.class_of(place.row) * Layout::column_classes(a) + columns.class_of(place.column);
    }
    const int pixel = exists ? (place.image * height + place.row) * width + place.column : -1;
    store_shared(target, static_cast<u32>(border) << 16);
    store_shared(target + 4, static_cast<u32>(pixel));
  }
};

__device__ inline void produce(const Work& work, int producer) {
  const WgmmaArguments& a = work.a;
  const int slabs = static_cast<int>(a.slabs);
  const PatchFiller filler = PatchFiller::of(a, work.channels);
  Stage stage;
  int slab = 0;
  int tile = work.first_tile;
  const auto skip = [&](int count) {
    for (int i = 0; i < count; ++i) {
      stage.advance(a);
      if (++slab == slabs) {
        slab = 0;
        tile += work.walkers;
      }
    }
  };
  skip(producer);
#pragma unroll 1
  while (tile < static_cast<int>(a.pixel_tiles)) {
    const u32 full = work.shared + Layout::kFull + 8 * stage.index;
    wait_barrier(full + Layout::kEmpty - Layout::kFull, stage.phase ^ 1);
    filler.fill(a, tile * kTileM, slab, stage.patch(a, work.shared + work.layout.patches));
    commit_copies();
    wait_copies<0>();
    publish_to_products();
    arrive(full);
    skip(kProducers);
  }
}
