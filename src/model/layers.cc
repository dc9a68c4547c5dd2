#include "model/layers.h"

#include "attention/torch_compat.h"

namespace moga {

MlpImpl::MlpImpl(int64_t in, int64_t hidden, int64_t out, Activation activation)
    : first_(register_module("0", Linear(in, hidden))),
      last_(register_module("2", Linear(hidden, out))),
      activation_(activation) {}

torch::Tensor MlpImpl::forward(const torch::Tensor& x) {
  const torch::Tensor hidden = first_(x);
  return last_(activation_ == Activation::kSilu ? torch::silu(hidden) : gelu_tanh(hidden));
}

RmsNormImpl::RmsNormImpl(int64_t width, double eps)
    : weight_(register_parameter("weight", torch::ones({width}))), eps_(eps) {}

torch::Tensor RmsNormImpl::forward(const torch::Tensor& x) {
#if MOGA_TORCH_AT_LEAST(2, 8)
  if (x.is_cuda()) {  // one kernel
    return torch::rms_norm(x.to(weight_.scalar_type()), {x.size(-1)}, weight_, eps_);
  }
#endif
  const torch::Tensor wide = x.scalar_type() == torch::kFloat64 ? x : x.to(torch::kFloat32);
  const torch::Tensor scale = torch::rsqrt(wide.square().mean(-1, /*keepdim=*/true) + eps_);
  return (wide * scale).to(x.scalar_type()) * weight_;
}

torch::Tensor plain_layer_norm(const torch::Tensor& x, double eps) {
  return torch::layer_norm(x, {x.size(-1)}, /*weight=*/{}, /*bias=*/{}, eps);
}

torch::Tensor gelu_tanh(const torch::Tensor& x) {
  return torch::gelu(x, "tanh");
}

}  // namespace moga
