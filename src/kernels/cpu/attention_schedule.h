// Tile sizes and the work split of attention over groups on a CPU: pure functions of sizes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace moga::cpu {

struct AttentionTiles {
  int64_t dim = 0;       // head size padded to a multiple of 8
  int64_t q_block = 0;   // queries that stay in the cache while all keys pass by (forward)
  int64_t kv_tile = 0;   // keys packed at a time (forward)
  int64_t kv_block = 0;  // keys that stay in the cache while all queries pass by (backward)
  int64_t kv_sub = 0;    // keys of it whose probabilities are in the cache at a time (backward)
  int64_t q_tile = 0;    // queries packed at a time (backward)
};

// Widest panel of queries of any target: register tiles of 3 vectors of 16 lanes. Blocks of queries are
// multiples of it, and 48 is one of all narrower targets' panels (24, 12) as well.
constexpr int64_t kWidestPanel = 48;
constexpr int64_t kMostTileRows = 8;
constexpr int64_t kMostLanes = 16;

AttentionTiles attention_tiles(int64_t dim);

// Floats of scratch memory a thread needs.
size_t forward_scratch_floats(const AttentionTiles& tiles);
size_t backward_scratch_floats(const AttentionTiles& tiles);

// One thread's work at a time, for one head: whole segments [segment_begin, segment_end), or, if it is one
// segment, its slots [begin, end) counted from the segment's first: queries in the forward pass, keys in the
// backward pass.
struct AttentionItem {
  int64_t segment_begin = 0;
  int64_t segment_end = 0;
  int64_t begin = 0;
  int64_t end = 0;
  bool continues = false;  // the item before it is of the same segment

  bool operator==(const AttentionItem&) const = default;
};

// What a segment costs, in score elements, with what is paid for every query and key whatever they meet, and
// for the segment itself.
double segment_cost(int64_t queries, int64_t keys);

// Largest first, so that the end of the queue is small change. `heads` queues run side by side on `threads`.
std::vector<AttentionItem> forward_items(const int64_t* q_offsets, const int64_t* kv_offsets,
                                         int64_t segments, const AttentionTiles& tiles, int64_t heads,
                                         int64_t threads);

// The same for the backward pass; it does not depend on the threads, since sums over keys are cut where items
// are. Items of one segment stand side by side.
std::vector<AttentionItem> backward_items(const int64_t* q_offsets, const int64_t* kv_offsets,
                                          int64_t segments, const AttentionTiles& tiles);

}  // namespace moga::cpu
