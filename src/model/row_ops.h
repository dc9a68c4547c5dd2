// What stands between a block's matrix products, each in one pass over memory where the kernels can (CPU,
// float32; GPU, float32 and half) and in libtorch's own operations elsewhere. Under autocast the kernels on a
// GPU write the products' type, which every product would otherwise convert to by itself.
//
// Dimensions: B samples, L tokens a sample, N heads, D head size, C = N * D.
#pragma once

#include <torch/torch.h>

#include "model/rope.h"

namespace moga {

// layer_norm(x) * (1 + scale) + shift, the norm without parameters. x_BLC any float dtype; shift and scale
// [B, 1, C].
torch::Tensor modulated_norm(const torch::Tensor& x_BLC, const torch::Tensor& shift_B1C,
                             const torch::Tensor& scale_B1C, double eps);

// layer_norm(x) * weight + bias over the last dimension.
torch::Tensor affine_norm(const torch::Tensor& x, const torch::Tensor& weight_C, const torch::Tensor& bias_C,
                          double eps);

// x * rsqrt(mean(x^2) + eps) * weight over the last dimension, then, with a table, each of `heads` heads
// turned by it:
// [..., C] -> [..., C]. With a table x is [B, L, C]. Statistics in float32 at least.
torch::Tensor norm_rope(const torch::Tensor& x, const torch::Tensor& weight_C, double eps, int64_t heads,
                        const RopeTable* table);

// x + gate * y in the type of x, which may be wider than that of y.
torch::Tensor gated_sum(const torch::Tensor& x_BLC, const torch::Tensor& gate_B1C,
                        const torch::Tensor& y_BLC);

// GELU in its form with tanh, of any shape and float dtype.
torch::Tensor gelu_tanh(const torch::Tensor& x);
// The same of a value that nobody needs any more: in its place if no gradient is recorded.
torch::Tensor gelu_tanh_of_own(torch::Tensor x);

}  // namespace moga
