#include "attention/segment_batches.h"

#include <algorithm>

#include "base/error.h"

namespace moga {

BatchLimits batch_limits(BatchTarget target, int64_t heads) {
  if (target == BatchTarget::kCpu) {
    // The score block of one head stays in a core's second-level cache (1 MiB of float32), and every matrix
    // of a batch is a BLAS call of its own, so padding gains little: only overhead of about 40 us a batch.
    return {.max_scores = int64_t{1} << 18,
            .min_rows = 16,
            .waste_factor = 1.05,
            .waste_scores = int64_t{1} << 13};
  }
  // 16M float32 scores over all heads are 64 MiB. A batch is about 15 launches of some 5 us each; in that
  // time the element-wise passes get through about a million scores, so that much padding is free.
  const int64_t shared = std::max<int64_t>(1, heads);
  return {.max_scores = (int64_t{1} << 24) / shared,
          .min_rows = 32,
          .waste_factor = 1.25,
          .waste_scores = (int64_t{1} << 20) / shared};
}

std::vector<SegmentBatch> segment_batches(const int64_t* q_offsets, const int64_t* kv_offsets,
                                          int64_t segments, const BatchLimits& limits) {
  MOGA_CHECK(limits.max_scores > 0 && limits.min_rows > 0,
             "segment batches: expected positive limits, found {} scores, {} rows", limits.max_scores,
             limits.min_rows);
  std::vector<SegmentBatch> batches;
  std::vector<SegmentPiece> small;
  for (int64_t s = 0; s < segments; ++s) {
    const int64_t q_len = q_offsets[s + 1] - q_offsets[s];
    const int64_t kv_len = kv_offsets[s + 1] - kv_offsets[s];
    if (q_len == 0 || kv_len == 0) {
      continue;
    }
    const int64_t rows = std::max(limits.min_rows, limits.max_scores / kv_len);
    if (q_len <= rows) {
      small.push_back({s, q_offsets[s], q_len, kv_offsets[s], kv_len});
      continue;
    }
    const int64_t chunks = (q_len - 1) / rows + 1;
    for (int64_t c = 0; c < chunks; ++c) {
      const int64_t begin = c * q_len / chunks;
      const int64_t end = (c + 1) * q_len / chunks;
      batches.push_back(
          {{{s, q_offsets[s] + begin, end - begin, kv_offsets[s], kv_len}}, end - begin, kv_len});
    }
  }
  // Longest first, so that the small rest balances the threads; equal sizes keep their order, and then
  // consecutive segments of static groups are read in place.
  std::stable_sort(small.begin(), small.end(), [](const SegmentPiece& a, const SegmentPiece& b) {
    return a.kv_len != b.kv_len ? a.kv_len > b.kv_len : a.q_len > b.q_len;
  });
  int64_t true_scores = 0;
  bool open = false;
  for (const SegmentPiece& piece : small) {
    const int64_t own = piece.q_len * piece.kv_len;
    if (open) {
      SegmentBatch& batch = batches.back();
      const int64_t q_len = std::max(batch.q_len, piece.q_len);
      const int64_t padded = (static_cast<int64_t>(batch.pieces.size()) + 1) * q_len * batch.kv_len;
      const double allowed = limits.waste_factor * static_cast<double>(true_scores + own) +
                             static_cast<double>(limits.waste_scores);
      if (padded <= limits.max_scores && static_cast<double>(padded) <= allowed) {
        batch.pieces.push_back(piece);
        batch.q_len = q_len;
        true_scores += own;
        continue;
      }
    }
    batches.push_back({{piece}, piece.q_len, piece.kv_len});
    true_scores = own;
    open = true;
  }
  return batches;
}

}  // namespace moga
