// grouped_attention: softmax attention inside index groups, forward and backward. Everything that attends in
// this project calls it; routers and window cutters only make groups.
//
// Dimensions: L query tokens, K key tokens, Q = groups.q_index length, N heads, D head size.
#pragma once

#include <torch/torch.h>

#include <optional>
#include <utility>
#include <vector>

#include "attention/groups.h"

namespace moga {

struct AttentionOutput {
  torch::Tensor out_LND;  // [L, N, D], dtype of q; rows of tokens in no segment are zero
  torch::Tensor lse_QN;   // [Q, N] log-sum-exp of the scaled scores, one row a query *slot* (a token in two
                          // segments has two); -inf where the segment has no keys. No gradient.
};

// q_LND [L, N, D]; k_KND, v_KND [K, N, D]: one floating dtype, one device, any strides.
// row_scale_L [L], or undefined for ones: multiplies the output row of each token (carries p(g(x)|x)); it
// gets a gradient. scale: factor of the scores, 1/sqrt(D) if absent. Memory is O(L): long segments go in
// query chunks. Under automatic mixed precision q, k and v are cast to its dtype. Throws Error on shape,
// dtype or index mismatch before touching data. Source: paper, algorithm 1.
AttentionOutput grouped_attention(const torch::Tensor& q_LND, const torch::Tensor& k_KND,
                                  const torch::Tensor& v_KND, const Groups& groups,
                                  const torch::Tensor& row_scale_L = {}, std::optional<double> scale = {});

// One of several attentions over the same q, k and v.
struct AttentionPart {
  const Groups* groups = nullptr;
  torch::Tensor row_scale_L;  // or undefined
  double factor = 1.0;
};

// The sum over the parts of factor * grouped_attention(q, k, v, groups, row_scale), accumulated straight into
// one output by the kernels of CPUs and GPUs. The rest as grouped_attention.
torch::Tensor summed_attention(const torch::Tensor& q_LND, const torch::Tensor& k_KND,
                               const torch::Tensor& v_KND, const std::vector<AttentionPart>& parts);

// The batched path alone, whatever the device and dtype: what the kernels are checked against.
AttentionOutput batched_attention(const torch::Tensor& q_LND, const torch::Tensor& k_KND,
                                  const torch::Tensor& v_KND, const Groups& groups,
                                  const torch::Tensor& row_scale_L = {}, std::optional<double> scale = {});

}  // namespace moga
