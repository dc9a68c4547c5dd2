// The operator's schema, so that the dispatcher (TorchScript, Python) finds it as moga::grouped_attention.
#include "attention/grouped_attention_op.h"

#include <torch/library.h>

#include "attention/grouped_attention.h"
#include "attention/torch_compat.h"

namespace moga {
namespace {

std::tuple<torch::Tensor, torch::Tensor> dispatched(
    const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v, const torch::Tensor& q_index,
    const torch::Tensor& q_offsets, const torch::Tensor& kv_index, const torch::Tensor& kv_offsets,
    const compat::Optional<torch::Tensor>& row_scale, compat::Optional<double> scale) {
  Groups groups;
  groups.q_index = q_index;
  groups.q_offsets = q_offsets;
  groups.kv_index = kv_index;
  groups.kv_offsets = kv_offsets;
  auto result = grouped_attention(q, k, v, groups, row_scale.has_value() ? *row_scale : torch::Tensor(),
                                  scale.has_value() ? std::optional<double>(*scale) : std::nullopt);
  return {result.out_LND, result.lse_QN};
}

}  // namespace

void keep_grouped_attention_op() {}

// Composite: the autograd rule is inside, so no backend needs a kernel of its own here.
TORCH_LIBRARY(moga, m) {
  m.def(
      "grouped_attention(Tensor q, Tensor k, Tensor v, Tensor q_index, Tensor q_offsets, Tensor kv_index, "
      "Tensor kv_offsets, Tensor? row_scale=None, float? scale=None) -> (Tensor, Tensor)",
      &dispatched);
}

}  // namespace moga
