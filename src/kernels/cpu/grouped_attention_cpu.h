// Attention inside index groups on a CPU, forward and backward, without score matrices in memory: plan once,
// then run. The formulas are those of kernels/ref/grouped_attention_ref.h; docs/kernels.md tells how it
// works.
//
// Dimensions: L query tokens, K key tokens, N heads, D head size, Q query slots (entries of q_index).
// Rows are fetched by index while tiles are packed; no copy of q, k or v is made. Arithmetic is float32
// whatever the storage. Head sizes 1 to 256; those that are no multiple of 8 are padded with zeros inside the
// tiles. Threads are OpenMP's. Results do not depend on how many there are.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu/rows.h"

namespace moga::cpu {

constexpr int64_t kMaxHeadSize = 256;

// Segment s: queries q_index[q_offsets[s] .. q_offsets[s + 1]) meet keys kv_index[kv_offsets[s] ..).
struct Segments {
  int64_t count = 0;
  const int64_t* q_index = nullptr;
  const int64_t* q_offsets = nullptr;  // count + 1, from 0
  const int64_t* kv_index = nullptr;
  const int64_t* kv_offsets = nullptr;  // count + 1, from 0
};

// Sizes that a plan is made for.
struct AttentionShape {
  int64_t q_tokens = 0;
  int64_t kv_tokens = 0;
  int64_t heads = 0;
  int64_t dim = 0;

  bool operator==(const AttentionShape&) const = default;
};

// The work split, and what is known of the indices. It holds no reference to the arrays of `segments`.
class AttentionPlan;

// Throws Error if offsets fall, indices are out of range or a size is not supported.
std::shared_ptr<const AttentionPlan> plan_attention(const Segments& segments, const AttentionShape& shape);

enum class Output {
  kWrite,  // every row of out is written; tokens in no segment get zeros
  kAdd,    // rows of tokens in a segment are added to
};

struct ForwardArguments {
  Rows q;                            // [L, N, D]
  Rows k;                            // [K, N, D]
  Rows v;                            // [K, N, D]
  const float* row_scale = nullptr;  // [L] or null for ones
  float scale = 1.0F;                // of the scores
  MutableRows out;                   // [L, N, D]; out = factor * row_scale * attention
  Output output = Output::kWrite;
  float factor = 1.0F;
  float* lse = nullptr;       // [Q, N] or null: log-sum-exp of each slot's scaled scores, -inf without keys
  float* slot_out = nullptr;  // [Q, N, D] or null: each slot's own output, without row_scale and factor
};

// `segments` must be those of the plan. Throws Error before any memory is touched if arguments do not fit.
void attention_forward(const AttentionPlan& plan, const Segments& segments,
                       const ForwardArguments& arguments);

struct BackwardArguments {
  Rows q;
  Rows k;
  Rows v;
  const float* row_scale = nullptr;
  float scale = 1.0F;
  float factor = 1.0F;
  Rows dout;                        // [L, N, D]
  const float* lse = nullptr;       // [Q, N], of the forward pass
  const float* slot_out = nullptr;  // [Q, N, D], of the forward pass
  // [L, N, D], [K, N, D], [K, N, D] dense float32. Overwritten.
  float* dq = nullptr;
  float* dk = nullptr;
  float* dv = nullptr;
  float* drow_scale = nullptr;  // [L] or null. Overwritten.
  float* delta = nullptr;       // [Q, N]: room to work in
};

// The same bits on every run, with any number of threads.
void attention_backward(const AttentionPlan& plan, const Segments& segments,
                        const BackwardArguments& arguments);

// The instruction set that the kernels run on, such as "AVX2": asked of the very code that runs.
std::string attention_target();

// For tests: the targets that this program holds and the machine has, best first, and running on one of them
// ("" for the best again). use_attention_target throws Error for others.
std::vector<std::string> attention_targets();
void use_attention_target(const std::string& name);

}  // namespace moga::cpu
