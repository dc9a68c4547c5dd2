#include "model/linear.h"

#include <ATen/Context.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <cmath>

#include "attention/torch_compat.h"
#include "base/error.h"
#include "kernels/cpu/matrix_product.h"

namespace moga {

namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

thread_local bool bare_weights = false;

class CpuLinear : public torch::autograd::Function<CpuLinear> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& given, const Tensor& given_weight,
                        const compat::Optional<Tensor>& given_bias) {
    RECORD_USER_SCOPE("moga::cpu_linear");  // seen by profilers
    const Tensor x = given.contiguous(), weight = given_weight.contiguous();
    const Tensor bias = given_bias ? given_bias->contiguous() : Tensor();
    std::vector<int64_t> shape = x.sizes().vec();
    shape.back() = weight.size(0);
    Tensor y = torch::empty(shape, x.options());
    cpu::linear(x.data_ptr<float>(), weight.data_ptr<float>(),
                bias.defined() ? bias.data_ptr<float>() : nullptr, x.numel() / x.size(-1), weight.size(1),
                weight.size(0), y.data_ptr<float>());
    // What the other's gradient needs, so that frozen weights keep no activations.
    ctx->save_for_backward({given_weight.requires_grad() ? x : Tensor(), weight});
    ctx->saved_data["bias"] = bias.defined();
    return y;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    MOGA_CHECK(!torch::GradMode::is_enabled(), "linear has no second derivative (create_graph)");
    RECORD_USER_SCOPE("moga::cpu_linear_backward");
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1];
    const Tensor dy = grads[0].contiguous();
    const int64_t out = weight.size(0), in = weight.size(1), rows = dy.numel() / out;
    Tensor dx, dweight, dbias;
    if (ctx->needs_input_grad(0)) {
      std::vector<int64_t> shape = dy.sizes().vec();
      shape.back() = in;
      dx = torch::empty(shape, dy.options());
      cpu::multiply(dy.data_ptr<float>(), /*turned=*/false, weight.data_ptr<float>(), rows, out, in,
                    dx.data_ptr<float>());
    }
    if (ctx->needs_input_grad(1)) {
      dweight = torch::empty_like(weight);
      cpu::multiply(dy.data_ptr<float>(), /*turned=*/true, x.data_ptr<float>(), out, rows, in,
                    dweight.data_ptr<float>());
    }
    if (ctx->saved_data["bias"].toBool() && ctx->needs_input_grad(2)) {  // without one there is no such input
      dbias = dy.view({rows, out}).sum(0);
    }
    return {dx, dweight, dbias};
  }
};

// Fewer are nearly a product with a vector, which is not what oneDNN's layers are made for.
constexpr int64_t kFewestRows = 16;

}  // namespace

Tensor linear_product(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const auto plain = [](const Tensor& t) { return t.is_cpu() && t.scalar_type() == torch::kFloat32; };
  static const bool kHasProducts = !cpu::product_library().empty();
  const bool ours = kHasProducts && plain(x) && plain(weight) && (!bias.defined() || plain(bias)) &&
                    x.dim() > 0 && weight.dim() == 2 && x.size(-1) == weight.size(1) && weight.numel() > 0 &&
                    x.numel() >= kFewestRows * x.size(-1) && !compat::autocast_type(x.device());
  if (!ours) {
    return torch::linear(x, weight, bias);
  }
  return CpuLinear::apply(x, weight,
                          bias.defined() ? compat::Optional<Tensor>(bias) : compat::Optional<Tensor>());
}

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
  return linear_product(x.to(wide), weight.to(wide), bias.defined() ? bias.to(wide) : bias)
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
  const torch::Tensor change =
      linear_product(linear_product(x.to(lora_A.scalar_type()), lora_A, {}), lora_B, {});
  return y + (adapter_scale_ * change).to(y.scalar_type());
}

torch::Tensor LinearImpl::forward_base(const torch::Tensor& x) const {
  const bool narrow = weight.scalar_type() == torch::kBFloat16;
  if (narrow && x.device().is_cpu() && !cpu_multiplies_bf16()) {
    return linear_widened(x, weight, bias);
  }
  if (x.scalar_type() == weight.scalar_type() || compat::autocast_type(x.device())) {
    return linear_product(x, weight, bias);
  }
  return linear_rounded(x, weight, bias);
}

}  // namespace moga
