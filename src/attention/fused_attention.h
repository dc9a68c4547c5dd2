// grouped_attention on a GPU through libtorch's fused attention kernels: gather by index, one kernel over all
// segments, scatter with the row scale. Nothing in it waits for the device.
#pragma once

#include <torch/torch.h>

#include <vector>

#include "attention/fused_backend.h"
#include "attention/grouped_attention.h"

namespace moga {

// Whether it can: CUDA, a libtorch that has the kernel, float16 or bfloat16, head sizes up to 256 in steps of
// 8. Everything else takes the batched path.
bool can_fuse_attention(const torch::Tensor& q_LND, const torch::Tensor& k_KND, const Groups& groups);

struct FusedOutput {
  torch::Tensor out_LND;
  torch::Tensor lse_QN;  // undefined unless asked for
};

// The sum over the parts of factor * attention, of checked arguments, each part added where it is scattered.
// With `want_lse` of the first part. Built with src/kernels/cuda, the same inputs give the same bits;
// without, sums over segments that share a token are float32 atomics. (Gradients are as the backend's, see
// fused_backend.h: flash attention's dq is summed by atomics.)
FusedOutput fused_attention(const torch::Tensor& q_LND, const torch::Tensor& k_KND,
                            const torch::Tensor& v_KND, const std::vector<AttentionPart>& parts, double scale,
                            bool want_lse);

}  // namespace moga
