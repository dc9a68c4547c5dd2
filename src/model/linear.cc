#include "model/linear.h"

#include <ATen/Context.h>

#include <cmath>

#include "attention/torch_compat.h"

namespace moga {

namespace {
thread_local bool bare_weights = false;
}  // namespace

BareWeights::BareWeights() : before_(bare_weights) {
  bare_weights = true;
}

BareWeights::~BareWeights() {
  bare_weights = before_;
}

bool BareWeights::on() {
  return bare_weights;
}

torch::Tensor new_weight(torch::IntArrayRef shape) {
  if (!bare_weights) {
    return torch::empty(shape);
  }
  return torch::zeros(std::vector<int64_t>(shape.size(), 1)).expand(shape);
}

LinearImpl::LinearImpl(int64_t in, int64_t out, bool with_bias)
    : weight(register_parameter("weight", new_weight({out, in}))) {
  if (with_bias) {
    bias = register_parameter("bias", new_weight({out}));
  }
  if (BareWeights::on()) {
    return;
  }
  // As libtorch starts its linear layers, number for number.
  const torch::NoGradGuard guard;
  torch::nn::init::kaiming_uniform_(weight, std::sqrt(5.0));
  if (with_bias) {
    const double bound = 1 / std::sqrt(static_cast<double>(in));
    torch::nn::init::uniform_(bias, -bound, bound);
  }
}

bool cpu_multiplies_bf16() {
#if defined(__x86_64__)
  static const bool kKnown = __builtin_cpu_supports("avx512bf16") != 0 && at::hasMKLDNN();
  return kKnown;
#else
  return false;
#endif
}

torch::Tensor linear_rounded(const torch::Tensor& x, const torch::Tensor& weight, const torch::Tensor& bias) {
  return torch::linear(x.to(weight.scalar_type()), weight, bias).to(x.scalar_type());
}

torch::Tensor linear_widened(const torch::Tensor& x, const torch::Tensor& weight, const torch::Tensor& bias) {
  const auto wide = x.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
  return torch::linear(x.to(wide), weight.to(wide), bias.defined() ? bias.to(wide) : bias)
      .to(x.scalar_type());
}

torch::Tensor LinearImpl::forward(const torch::Tensor& x) {
  const bool narrow = weight.scalar_type() == torch::kBFloat16;
  if (narrow && x.device().is_cpu() && !cpu_multiplies_bf16()) {
    return linear_widened(x, weight, bias);
  }
  if (x.scalar_type() == weight.scalar_type() || compat::autocast_type(x.device())) {
    return torch::linear(x, weight, bias);
  }
  return linear_rounded(x, weight, bias);
}

}  // namespace moga
