// The producers of conv_wgmma_in_place: four warps, each of which fills patches alone, so that as
// many are under way, and always the same ones of the ring: a barrier tells a phase from the one
// before it, but not from the one before that, so that nobody may miss one.
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
};

// A pixel of the images under a place, found again 32 places further without divisions.
struct Pixel {
  int row;
  int column;
  int offset;  // words, from the first pixel of the first place's image
};

struct PatchFiller {
  Pixel further;                // by 32 places
  Pixel wrap_column, wrap_row;  // what is added past the last column and row of places
  int column_end, row_end;
  int height;
  EntryCopy entry;
  const u32* words;  // of the group
  BorderAxis rows;
  BorderAxis columns;

  static __device__ PatchFiller of(const WgmmaArguments& a, const Channels& channels) {
    const int skip_rows = static_cast<int>(a.skip_rows);
    const int skip_columns = static_cast<int>(a.skip_columns);
    const int all_rows = static_cast<int>(a.patch_rows) * skip_rows;
    const int all_columns = static_cast<int>(a.patch_columns) * skip_columns;
    PatchFiller filler;
    filler.entry = EntryCopy::of(a);
    filler.height = static_cast<int>(a.height);
    const Place places = Place::at(a, 32);
    filler.further = {places.row * skip_rows, places.column * skip_columns, 0};
    filler.further.offset = filler.offset_of(places.image, filler.further);
    filler.wrap_column = {skip_rows, -all_columns, 0};
    filler.wrap_column.offset = filler.offset_of(0, filler.wrap_column);
    filler.wrap_row = {-all_rows, 0, 0};
    filler.wrap_row.offset = filler.offset_of(1, filler.wrap_row);
    filler.column_end = all_columns - static_cast<int>(a.padding_columns);
    filler.row_end = all_rows - static_cast<int>(a.padding_rows);
    filler.words = a.x + static_cast<i64>(channels.group) * a.group_words;
    filler.rows = BorderAxis::rows_of(a);
    filler.columns = BorderAxis::columns_of(a);
    return filler;
  }

  // Entries of the places from `first` on.
  __device__ void copy(const WgmmaArguments& a, int first, int slab, u32 patch) const {
    const int lane = threadIdx.x % 32;
    const Place place = Place::at(a, first + lane);
    Pixel pixel = {
        place.row * static_cast<int>(a.skip_rows) - static_cast<int>(a.padding_rows),
        place.column * static_cast<int>(a.skip_columns) - static_cast<int>(a.padding_columns), 0};
    pixel.offset = offset_of(0, pixel) + slab * (PLANES * kChunkWords);
    const u32* image = words + place.image * (a.height * a.width * entry.pixel_words);
    const int entries = kTileM + static_cast<int>(a.reach_places);
    // Past the last image nothing is read.
    const int existing = static_cast<int>(a.batch * a.patch_rows * a.patch_columns) - first;
#pragma unroll 1
    for (int i = lane; i < entries; i += 32) {
      const bool row_inside =
          static_cast<u32>(pixel.row) < static_cast<u32>(height) && i < existing;
      const bool inside = row_inside && (WORD_TAPS > 1 || static_cast<u32>(pixel.column) <
                                                              static_cast<u32>(entry.width));
      entry.copy(a, patch + i * kChunkBytes, image + pixel.offset, pixel.column, inside, slab);
      add(pixel, further);
      if (pixel.column >= column_end) add(pixel, wrap_column);
      if (pixel.row >= row_end) add(pixel, wrap_row);
    }
  }

  // The words of the tile's rows. Places between images have no output pixel.
  __device__ void describe(const WgmmaArguments& a, int first, u32 row_words) const {
    const int height = static_cast<int>(a.out_height);
    const int width = static_cast<int>(a.out_width);
#pragma unroll 1
    for (int row = threadIdx.x % 32; row < kTileM; row += 32) {
      const Place place = Place::at(a, first + row);
      const bool exists =
          place.image < static_cast<int>(a.batch) && place.row < height && place.column < width;
      const int border = Layout::classes(a) == 1
                             ? 0
                             : rows.class_of(place.row) * Layout::column_classes(a) +
                                   columns.class_of(place.column);
      const int pixel = exists ? (place.image * height + place.row) * width + place.column : -1;
      const u32 words = RowWords::at(row_words, row);
      store_shared(words, exists ? static_cast<u32>(border) << 16 : 0u);
      store_shared(words + 4, static_cast<u32>(pixel));
    }
  }

 private:
  __device__ int offset_of(int image, const Pixel& pixel) const {
    return ((image * height + pixel.row) * entry.width + pixel.column) * entry.pixel_words;
  }

  static __device__ void add(Pixel& pixel, const Pixel& more) {
    pixel.row += more.row;
    pixel.column += more.column;
    pixel.offset += more.offset;
  }
};

__device__ inline void produce(const Work& work, int producer) {
  const WgmmaArguments& a = work.a;
  const int slabs = static_cast<int>(a.slabs);
  const int stages = static_cast<int>(a.stages);
  if (producer >= stages) return;
  const PatchFiller filler = PatchFiller::of(a, work.channels);
  Stage stage;
  int tile = work.first_tile;
  int slab = 0;
  const auto skip = [&](int count) {
    stage.advance(a, count);
    for (slab += count; slab >= slabs; slab -= slabs) tile += work.walkers;
  };
  skip(producer);
#pragma unroll 1
  while (tile < static_cast<int>(a.pixel_tiles)) {
    const u32 full = work.shared + Layout::kFull + 8 * stage.index;
    wait_barrier(full + Layout::kEmpty - Layout::kFull, stage.phase ^ 1);
    const u32 patch = stage.patch(a, work.shared + work.layout.patches);
    filler.copy(a, tile * kTileM, slab, patch);
    commit_copies();
    if (slab == 0) filler.describe(a, tile * kTileM, patch + PLANES * filler.entry.plane_bytes);
    wait_copies<0>();
    publish_to_products();
    arrive(full);
    const int left = stages - stage.index;  // of the ring
    skip(left > kProducers ? kProducers : left + producer);
  }
}
