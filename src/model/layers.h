// Small layers that the Wan2.1 modules share. Parameter names follow the published checkpoints.
#pragma once

#include <torch/torch.h>

#include <string>

#include "model/linear.h"
#include "model/rope.h"

namespace moga {

// Linear, activation, Linear under the names "0" and "2", as the published sequential modules have them.
class MlpImpl : public torch::nn::Module {
 public:
  enum class Activation { kSilu, kGeluTanh };
  MlpImpl(int64_t in, int64_t hidden, int64_t out, Activation activation);
  torch::Tensor forward(const torch::Tensor& x);
  torch::ScalarType weight_type() const { return first_->weight.scalar_type(); }

 private:
  Linear first_{nullptr};
  Linear last_{nullptr};
  Activation activation_;
};
TORCH_MODULE(Mlp);

// y = x * rsqrt(mean(x^2) + eps) * weight over the last dimension; statistics in float32 at least.
class RmsNormImpl : public torch::nn::Module {
 public:
  RmsNormImpl(int64_t width, double eps);
  torch::Tensor forward(const torch::Tensor& x);
  // The same, and then each of `heads` heads turned by the rotary table. [B, L, C] -> [B, L, C].
  torch::Tensor rotated(const torch::Tensor& x_BLC, int64_t heads, const RopeTable& table);

 private:
  torch::Tensor weight_;
  double eps_;
};
TORCH_MODULE(RmsNorm);

}  // namespace moga
