// How segments of any lengths become few padded batched products: a pure function of the lengths.
//
// A batch is `pieces.size()` score matrices of one padded size q_len x kv_len. Long segments are cut along
// their queries, so that no batch holds more than `max_scores` scores: this is what keeps memory at O(L).
// Pieces of like size share a batch, so that thousands of tiny segments do not become thousands of tiny
// launches.
#pragma once

#include <cstdint>
#include <vector>

namespace moga {

// Positions are slots: entries of q_index and kv_index, not tokens.
struct SegmentPiece {
  int64_t segment = 0;
  int64_t q_begin = 0;
  int64_t q_len = 0;  // at least 1
  int64_t kv_begin = 0;
  int64_t kv_len = 0;  // at least 1

  bool operator==(const SegmentPiece&) const = default;
};

struct SegmentBatch {
  std::vector<SegmentPiece> pieces;
  int64_t q_len = 0;   // the longest q_len of the pieces
  int64_t kv_len = 0;  // the longest kv_len of the pieces

  int64_t scores() const { return static_cast<int64_t>(pieces.size()) * q_len * kv_len; }
};

struct BatchLimits {
  // Scores of one head in a batch at most.
  int64_t max_scores = 0;
  // But a piece of a long segment keeps this many queries: with fewer, a product only waits for its keys.
  // This may exceed max_scores by itself, and is still O(L).
  int64_t min_rows = 1;
  // A batch may hold up to waste_factor * true scores + waste_scores, padding included.
  double waste_factor = 1.0;
  int64_t waste_scores = 0;
};

// The limits to use. `heads`: heads that one batch computes together.
enum class BatchTarget { kCpu, kCuda };
BatchLimits batch_limits(BatchTarget target, int64_t heads);

// Offsets as in Groups: `segments + 1` values each. Segments that are empty on either side are left out. The
// pieces of one long segment stand in consecutive batches. Deterministic.
std::vector<SegmentBatch> segment_batches(const int64_t* q_offsets, const int64_t* kv_offsets,
                                          int64_t segments, const BatchLimits& limits);

}  // namespace moga
