// Attention over index groups: the one idea of this project (docs/architecture.md).
//
// Dimensions: L tokens (all samples of a batch one after another), S segments, M groups.
#pragma once

#include <torch/torch.h>

#include <memory>
#include <optional>

#include "attention/static_groups.h"

namespace moga {

struct SegmentPlanCache;

// What is known of an index of n entries. kPermutation: each of 0 .. n-1 once. kIdentity: 0, 1, .. n-1.
enum class IndexOrder { kAny, kPermutation, kIdentity };

// Segment s: queries q_index[q_offsets[s] .. q_offsets[s+1]) attend fully to keys kv_index[kv_offsets[s] ..).
// A token may stand in several segments (outputs add) or in none (zero row); segments may be empty on either
// side.
struct Groups {
  torch::Tensor q_index;     // [Q] int64, on the device of q
  torch::Tensor q_offsets;   // [S + 1] int64, on the CPU; or on the device of q, then with `longest`
  torch::Tensor kv_index;    // [K] int64, on the device of k and v
  torch::Tensor kv_offsets;  // [S + 1] int64, where q_offsets are

  // Offsets on a device spare the wait that reading them would be; their values are trusted. `longest` bounds
  // the queries and the keys of every segment then.
  std::optional<int64_t> longest = {};
  // Rows that are in order need no gathering, and those of a permutation no adding.
  IndexOrder q_order = IndexOrder::kAny;
  IndexOrder kv_order = IndexOrder::kAny;

  // All indices are known to lie in [0, bound). The makers below fill this in, so that check() need not read
  // the indices again in every layer on a GPU, which is a wait for the device; on a CPU it always looks.
  // Whoever puts other indices into a Groups on a GPU resets it.
  std::optional<int64_t> q_bound = {};
  std::optional<int64_t> kv_bound = {};
  // Holds the way these segments are batched, so that it is worked out once for groups that are used by all
  // layers and steps. Copies share it; absent means that each call plans anew. It belongs to the offset
  // tensors: with others in their place a new plan is made.
  std::shared_ptr<SegmentPlanCache> plan_cache = {};

  int64_t segments() const { return q_offsets.numel() - 1; }
  // Sum over the segments of queries * keys.
  double pairs() const;
  // Throws Error unless dtypes, offsets and index bounds fit q_tokens queries and kv_tokens keys.
  void check(int64_t q_tokens, int64_t kv_tokens) const;
};

Groups to_groups(const GroupIndex& index, torch::Device device);

// A batch padded to the size that all batches of a set have, with offsets on the device: nothing of it but
// the tensors' values then differs from batch to batch.
Groups to_padded_groups(GroupIndex batch, const GroupSizes& film, int64_t films, torch::Device device);

// The stable grouping of algorithm 1: tokens of equal id become one segment each, token order kept inside.
// group_ids_L: [L] int64 in [0, group_count). With batch > 1 tokens are split into `batch` equal runs and
// groups of different samples are different segments (sample-major: segment = sample * group_count + group).
// The offsets stay on the ids' device, so that nothing waits for a GPU; there an id out of range is an
// assertion of the device instead of an Error.
Groups groups_from_ids(const torch::Tensor& group_ids_L, int64_t group_count, int64_t batch = 1);

}  // namespace moga
