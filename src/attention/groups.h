// Attention over index groups: the one idea of this project (docs/architecture.md).
//
// Dimensions: L tokens (all samples of a batch one after another), S segments, M groups.
#pragma once

#include <torch/torch.h>

#include "attention/static_groups.h"

namespace moga {

// Segment s: queries q_index[q_offsets[s] .. q_offsets[s+1]) attend fully to keys kv_index[kv_offsets[s] ..).
// A token may stand in several segments (outputs add) or in none (zero row); segments may be empty on either side.
struct Groups {
  torch::Tensor q_index;     // [Q] int64, on the device of q
  torch::Tensor q_offsets;   // [S + 1] int64, on the CPU
  torch::Tensor kv_index;    // [K] int64, on the device of k and v
  torch::Tensor kv_offsets;  // [S + 1] int64, on the CPU

  int64_t segments() const { return q_offsets.numel() - 1; }
  double pairs() const;
  // Throws Error unless dtypes, offsets and index bounds fit q_tokens queries and kv_tokens keys.
  void check(int64_t q_tokens, int64_t kv_tokens) const;
};

Groups to_groups(const GroupIndex& index, torch::Device device);

// The stable grouping of algorithm 1: tokens of equal id become one segment each, token order kept inside.
// group_ids_L: [L] int64 in [0, group_count). With batch > 1 tokens are split into `batch` equal runs and groups
// of different samples are different segments (sample-major: segment = sample * group_count + group).
Groups groups_from_ids(const torch::Tensor& group_ids_L, int64_t group_count, int64_t batch = 1);

}  // namespace moga
