#include "kernels/cpu/attention_schedule.h"

#include <algorithm>
#include <numeric>

namespace moga::cpu {
namespace {

int64_t round_up(int64_t value, int64_t step) {
  return (value + step - 1) / step * step;
}

// Segments by falling cost; equal ones keep their order, so that neighbours in memory stay neighbours.
struct SegmentOrder {
  std::vector<int64_t> segments;
  std::vector<double> costs;  // by segment
};

SegmentOrder by_cost(const int64_t* q_offsets, const int64_t* kv_offsets, int64_t segments) {
  SegmentOrder order;
  order.segments.resize(static_cast<size_t>(segments));
  std::iota(order.segments.begin(), order.segments.end(), int64_t{0});
  for (int64_t s = 0; s < segments; ++s) {
    order.costs.push_back(segment_cost(q_offsets[s + 1] - q_offsets[s], kv_offsets[s + 1] - kv_offsets[s]));
  }
  return order;
}

// Small segments are worked on in runs of neighbours, which must cost at least this much together: taking an
// item from the queue costs two threads about a tenth of a microsecond, this much work about a hundred.
constexpr double kLeastCost = 48.0 * 1024;

// Cuts segments of more than `block` slots (lengths from `offsets`) and bundles the small ones.
std::vector<AttentionItem> make_items(const SegmentOrder& order, const int64_t* offsets, int64_t block) {
  std::vector<AttentionItem> large;
  std::vector<AttentionItem> small;
  std::vector<double> small_cost;
  const auto cost_of = [&](int64_t s) { return order.costs[static_cast<size_t>(s)]; };
  for (const int64_t s : order.segments) {
    const int64_t length = offsets[s + 1] - offsets[s];
    if (cost_of(s) < kLeastCost) {
      const bool joins = !small.empty() && small.back().segment_end == s && small_cost.back() < kLeastCost;
      if (joins) {
        small.back().segment_end = s + 1;
        small.back().end = length;
        small_cost.back() += cost_of(s);
      } else {
        small.push_back({s, s + 1, 0, length});
        small_cost.push_back(cost_of(s));
      }
      continue;
    }
    const int64_t pieces = std::max<int64_t>(1, (length + block - 1) / block);
    // Equal pieces of whole panels: a short last piece would leave most of its panel empty.
    const int64_t step = std::min(block, round_up((length + pieces - 1) / pieces, kWidestPanel));
    for (int64_t begin = 0; begin == 0 || begin < length; begin += step) {
      large.push_back({s, s + 1, begin, std::min(length, begin + step), begin > 0});
    }
  }
  large.insert(large.end(), small.begin(), small.end());
  return large;
}

}  // namespace

double segment_cost(int64_t queries, int64_t keys) {
  const auto q = static_cast<double>(queries);
  const auto k = static_cast<double>(keys);
  // Packing a row, and a segment's start, in units of a score of 128 channels (about 2.5 ns).
  return q * k + 4.0 * (q + k) + 64.0;
}

AttentionTiles attention_tiles(int64_t dim) {
  AttentionTiles tiles;
  tiles.dim = round_up(dim, 8);
  // Queries and outputs of a block take 8 * dim * q_block bytes, 1.1 MiB at 128 channels: they just outgrow a
  // second-level cache of 1 MiB, but each block packs all keys again. 768 to 1,680 are within 2 %.
  tiles.q_block = tiles.dim <= 128 ? 1152 : 576;
  tiles.kv_tile = 128;
  tiles.kv_block = tiles.dim <= 128 ? 1152 : 128;
  tiles.kv_sub = 128;
  tiles.q_tile = tiles.dim <= 128 ? 144 : 96;
  return tiles;
}

size_t forward_scratch_floats(const AttentionTiles& tiles) {
  const int64_t keys = tiles.kv_tile + kMostTileRows;
  const int64_t floats = 2 * tiles.q_block * tiles.dim        // queries, outputs
                         + 2 * tiles.q_block                  // statistics
                         + keys * tiles.dim                   // keys
                         + keys * tiles.dim + 16 * tiles.dim  // values
                         + keys * kWidestPanel                // scores
                         + kMostLanes * tiles.dim + 1024;     // rows in transit, alignment
  return static_cast<size_t>(floats);
}

size_t backward_scratch_floats(const AttentionTiles& tiles) {
  const int64_t row = round_up(tiles.dim, 16) + 16;
  const int64_t keys = tiles.kv_block + kMostTileRows;
  const int64_t floats = 4 * keys * row                                              // k, v, dk, dv
                         + keys * tiles.dim + 16 * tiles.dim                         // k for dq
                         + 2 * (tiles.kv_sub + kMostTileRows) * (tiles.q_tile + 16)  // p, ds
                         + 2 * tiles.q_tile * row                                    // q, dout by rows
                         + 3 * tiles.q_tile * tiles.dim  // q, dout, dq by channels
                         + 2 * tiles.q_tile              // statistics
                         + kMostLanes * tiles.dim + 1024;
  return static_cast<size_t>(floats);
}

std::vector<AttentionItem> forward_items(const int64_t* q_offsets, const int64_t* kv_offsets,
                                         int64_t segments, const AttentionTiles& tiles, int64_t heads,
                                         int64_t threads) {
  SegmentOrder order = by_cost(q_offsets, kv_offsets, segments);
  std::stable_sort(order.segments.begin(), order.segments.end(), [&](int64_t a, int64_t b) {
    return order.costs[static_cast<size_t>(a)] > order.costs[static_cast<size_t>(b)];
  });
  // At least this many items a thread, or the last one to finish keeps the others waiting.
  constexpr double kItemsPerThread = 8;
  const double all =
      std::accumulate(order.costs.begin(), order.costs.end(), 0.0) * static_cast<double>(heads);
  const double most = std::max(kLeastCost, all / (kItemsPerThread * static_cast<double>(threads)));
  int64_t block = tiles.q_block;
  if (!order.segments.empty()) {
    const int64_t s = order.segments.front();
    const int64_t keys = std::max<int64_t>(1, kv_offsets[s + 1] - kv_offsets[s]);
    const auto rows = static_cast<int64_t>(most / static_cast<double>(keys));
    block = std::clamp(rows / kWidestPanel * kWidestPanel, kWidestPanel, tiles.q_block);
  }
  return make_items(order, q_offsets, block);
}

std::vector<AttentionItem> backward_items(const int64_t* q_offsets, const int64_t* kv_offsets,
                                          int64_t segments, const AttentionTiles& tiles) {
  SegmentOrder order = by_cost(q_offsets, kv_offsets, segments);
  std::stable_sort(order.segments.begin(), order.segments.end(), [&](int64_t a, int64_t b) {
    return order.costs[static_cast<size_t>(a)] > order.costs[static_cast<size_t>(b)];
  });
  return make_items(order, kv_offsets, tiles.kv_block);
}

}  // namespace moga::cpu
