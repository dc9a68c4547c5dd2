// grouped_attention on a CPU through the kernels of kernels/cpu.
//
// Dimensions: L query tokens, K key tokens, Q query slots, N heads, D head size.
#pragma once

#include <torch/torch.h>

#include <vector>

#include "attention/grouped_attention.h"

namespace moga {

// Whether the kernels can: a CPU, float32, bfloat16 or float16, head sizes up to 256. Double precision takes
// the batched path, which is exact enough to judge gradients by.
bool can_run_cpu_attention(const torch::Tensor& q_LND);

// out = sum over the parts of factor * row_scale * attention(groups), accumulated straight into one output;
// lse of each part. Of checked arguments.
struct CpuAttentionOutput {
  torch::Tensor out_LND;
  std::vector<torch::Tensor> lse_QN;
};
CpuAttentionOutput cpu_attention(const torch::Tensor& q_LND, const torch::Tensor& k_KND,
                                 const torch::Tensor& v_KND, const std::vector<AttentionPart>& parts,
                                 double scale);

}  // namespace moga
