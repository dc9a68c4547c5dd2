// grouped_attention on a GPU through libtorch's fused attention over segments of different lengths: gather by
// index, one kernel over all segments, scatter with the row scale. Nothing in it waits for the device.
#pragma once

#include <torch/torch.h>

#include "attention/grouped_attention.h"

namespace moga {

// Whether it can: CUDA, a libtorch that has the kernel, float16 or bfloat16, head sizes up to 256 in steps of
// 8. Everything else takes the batched path.
bool can_fuse_attention(const torch::Tensor& q_LND, const torch::Tensor& k_KND, const Groups& groups);

// As grouped_attention, of checked arguments. Sums over segments that share a token are float32 atomics, so
// their last bits differ between runs.
AttentionOutput fused_attention(const torch::Tensor& q_LND, const torch::Tensor& k_KND,
                                const torch::Tensor& v_KND, const Groups& groups,
                                const torch::Tensor& row_scale_L, double scale);

}  // namespace moga
