#include "model/layers.h"

#include <utility>

#include "model/row_ops.h"

namespace moga {

MlpImpl::MlpImpl(int64_t in, int64_t hidden, int64_t out, Activation activation)
    : first_(register_module("0", Linear(in, hidden))),
      last_(register_module("2", Linear(hidden, out))),
      activation_(activation) {}

torch::Tensor MlpImpl::forward(const torch::Tensor& x) {
  torch::Tensor hidden = first_(x);
  return last_(activation_ == Activation::kSilu ? torch::silu(hidden) : gelu_tanh_of_own(std::move(hidden)));
}

RmsNormImpl::RmsNormImpl(int64_t width, double eps)
    : weight_(register_parameter("weight", torch::ones({width}))), eps_(eps) {}

torch::Tensor RmsNormImpl::forward(const torch::Tensor& x) {
  return norm_rope(x, weight_, eps_, /*heads=*/1, /*table=*/nullptr);
}

torch::Tensor RmsNormImpl::rotated(const torch::Tensor& x_BLC, int64_t heads, const RopeTable& table) {
  return norm_rope(x_BLC, weight_, eps_, heads, &table);
}

}  // namespace moga
