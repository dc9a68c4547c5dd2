#include "model/linear.h"

#include <ATen/Context.h>

#include <algorithm>
#include <cmath>

#include "attention/torch_compat.h"
#include "base/error.h"

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

void LinearImpl::add_adapter(int64_t rank, double alpha) {
  const int64_t most = std::min(weight.size(0), weight.size(1));
  MOGA_CHECK(rank >= 1 && rank <= most, "an adapter of rank {} for a layer of {}x{}, expected 1 to {}", rank,
             weight.size(0), weight.size(1), most);
  const auto options = torch::TensorOptions().device(weight.device());
  lora_A = register_parameter("lora_A", torch::empty({rank, weight.size(1)}, options));
  lora_B = register_parameter("lora_B", torch::zeros({weight.size(0), rank}, options));
  const torch::NoGradGuard guard;
  torch::nn::init::kaiming_uniform_(lora_A, std::sqrt(5.0));
  adapter_scale_ = alpha / static_cast<double>(rank);
}

torch::Tensor LinearImpl::forward(const torch::Tensor& x) {
  torch::Tensor y = forward_base(x);
  if (!lora_A.defined()) {
    return y;
  }
  const torch::Tensor change = torch::linear(torch::linear(x.to(lora_A.scalar_type()), lora_A), lora_B);
  return y + (adapter_scale_ * change).to(y.scalar_type());
}

torch::Tensor LinearImpl::forward_base(const torch::Tensor& x) const {
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
