// libtorch's side of src/kernels/cuda/row_ops.h: tensors in, tensors out, on the current stream, without
// gradients.
#pragma once

#include <torch/torch.h>

#include "model/rope.h"

namespace moga {

// Whether this build has the kernels and they take such rows: on a GPU, float32 or half, [..., C].
bool device_takes_rows(const torch::Tensor& x);

// Layer norm of x [..., C] (C its last dimension) times (plus + scale), plus shift, as `type`. scale and
// shift hold one row for every x.size(0)-th of the rows, or one for all.
torch::Tensor device_norm_modulate(const torch::Tensor& x, const torch::Tensor& scale,
                                   const torch::Tensor& shift, double plus, double eps,
                                   torch::ScalarType type);
// As norm_rope().
torch::Tensor device_norm_rope(const torch::Tensor& x, const torch::Tensor& weight_C, double eps,
                               int64_t heads, const RopeTable* table, torch::ScalarType type);

}  // namespace moga
