// The stages of a block's tiles in order, and what starts one.
#pragma once

#include "conv_mma_filters.cuh"
#include "conv_mma_patch.cuh"
#include "conv_mma_table.cuh"

// How many tiles something is kept of, from their first copies to their last stores. Where all
// warps copy: this tile and the next; the one after that is begun when all warps have stored this
// one. A producer fills a slot when all consumers have multiplied what was there, and so have
// stored the tile before that: with tiles of one stage, of one more than there are slots.
constexpr int kMaxProducerSlots = 3;
constexpr u32 kTilesKept = PRODUCERS > 0 ? kMaxProducerSlots + 1 : 2;

// (All but the tile in one register: they are few.)
struct Walk {
  int tile;
  u32 stage : 24;
  u32 slot : 4;
  u32 turn : 3;  // of the tile, among kTilesKept
  u32 lap : 1;   // of the slots: even or odd

  static __device__ Walk from(int tile) { return {tile, 0, 0, 0, 0}; }

  __device__ void advance(const MmaArguments& a) {
    if (++slot == static_cast<u32>(a.slots)) {
      slot = 0;
      lap ^= 1;
    }
    if (++stage == static_cast<u32>(a.stages)) {
      stage = 0;
      tile += static_cast<int>(a.walkers);
      if (++turn == kTilesKept) turn = 0;
    }
  }

  __device__ bool is_last_stage(const MmaArguments& a) const {
    return stage == static_cast<u32>(a.stages) - 1;
  }

  __device__ u8* address(const MmaArguments& a, u8* shared) const {
    const int bytes = static_cast<int>(a.patch_bytes + (a.resident ? 0 : a.filter_bytes));
    return shared + static_cast<int>(a.ring_at) + static_cast<int>(slot) * bytes;
  }

  __device__ u8* filters(const MmaArguments& a, u8* shared) const {
    return a.resident ? shared + static_cast<int>(stage) * static_cast<int>(a.filter_bytes)
                      : address(a, shared) + static_cast<int>(a.patch_bytes);
  }

  __device__ Spot* spots(const MmaArguments& a, u8* shared) const {
    return at<Spot>(shared, a.spots_at) + turn * kTileM;
  }

  // Of each entry: of this tile and the next.
  __device__ int* set_bits(const MmaArguments& a, u8* shared) const {
    return at<int>(shared, a.set_bits_at) +
           turn % 2 * static_cast<int>(a.segment_entries * a.segments);
  }
};

// Starts the copies of the next stage, as a group of their own (empty past the last tile).
// `entries` are those of its patch, found with the tile's first stage.
__device__ inline void load_stage(const MmaArguments& a, const Block& block, Walk& ahead,
                                  int& entries, u8* shared) {
  if (ahead.tile < static_cast<int>(a.pixel_tiles)) {
    u32* sources = at<u32>(shared, a.sources_at);
    if (ahead.stage == 0) {
      const Tile tile = Tile::at(a, ahead.tile);
      entries = tile.entries;
      find_sources(a, tile, sources);
      describe_pixels(a, tile, ahead.spots(a, shared));
    }
    load_patch(a, entries, sources, block.group, ahead.stage,
               shared_address(ahead.address(a, shared)));
    if (!a.resident) {
      load_filters<kCopiers>(a, block, at<Chunk>(shared, a.chunks_at), ahead.stage,
                             ahead.filters(a, shared), copier_index());
    }
    ahead.advance(a);
  }
  commit_copies();
}
