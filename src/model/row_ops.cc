#include "model/row_ops.h"

#include "attention/torch_compat.h"
#include "base/error.h"
#include "kernels/cpu/gelu.h"
#include "kernels/cpu/row_kernels.h"

namespace moga {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

bool is_plain(const Tensor& x) {
  return x.is_cpu() && x.scalar_type() == torch::kFloat32;
}

cpu::RowShape row_shape(const Tensor& x, int64_t rows_per_sample, double eps) {
  const int64_t channels = x.size(-1);
  return {x.numel() / channels, channels, rows_per_sample, static_cast<float>(eps)};
}

// Modulations are rows inside a larger tensor; both must lie alike.
std::pair<Tensor, Tensor> alike(const Tensor& shift, const Tensor& scale) {
  const auto fine = [](const Tensor& x) { return x.stride(2) == 1; };
  const bool as_they_are = fine(shift) && fine(scale) && shift.stride(0) == scale.stride(0);
  return as_they_are ? std::pair(shift, scale) : std::pair(shift.contiguous(), scale.contiguous());
}

class ModulatedNorm : public torch::autograd::Function<ModulatedNorm> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x_BLC, const Tensor& shift_B1C,
                        const Tensor& scale_B1C, double eps) {
    const Tensor x = x_BLC.contiguous();
    const auto [shift, scale] = alike(shift_B1C, scale_B1C);
    Tensor y = torch::empty_like(x);
    cpu::norm_modulate(row_shape(x, x.size(1), eps), x.data_ptr<float>(), scale.data_ptr<float>(),
                       shift.data_ptr<float>(), scale.stride(0), y.data_ptr<float>());
    ctx->save_for_backward({x, scale});
    ctx->saved_data["eps"] = eps;
    return y;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    MOGA_CHECK(!torch::GradMode::is_enabled(), "modulated_norm has no second derivative (create_graph)");
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &scale = saved[1];
    const Tensor dy = grads[0].contiguous();
    Tensor dx = torch::empty_like(x);
    Tensor dscale = torch::empty({x.size(0), 1, x.size(2)}, x.options());
    Tensor dshift = torch::empty_like(dscale);
    cpu::norm_modulate_backward(row_shape(x, x.size(1), ctx->saved_data["eps"].toDouble()),
                                x.data_ptr<float>(), scale.data_ptr<float>(), scale.stride(0),
                                dy.data_ptr<float>(), dx.data_ptr<float>(), dscale.data_ptr<float>(),
                                dshift.data_ptr<float>());
    return {dx, dshift, dscale, Tensor()};
  }
};

const float* data_or_null(const Tensor& x) {
  return x.defined() ? x.data_ptr<float>() : nullptr;
}

class NormRope : public torch::autograd::Function<NormRope> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& given, const Tensor& weight_C,
                        const RopeTable* table, double eps, int64_t heads) {
    const Tensor x = given.contiguous();
    const Tensor weight = weight_C.contiguous();
    const Tensor cos = table != nullptr ? table->cos_LP.contiguous() : Tensor();
    const Tensor sin = table != nullptr ? table->sin_LP.contiguous() : Tensor();
    Tensor y = torch::empty_like(x);
    const int64_t per_sample = table != nullptr ? x.size(1) : x.numel() / x.size(-1);
    cpu::rms_norm_rope(row_shape(x, std::max<int64_t>(per_sample, 1), eps), x.size(-1) / heads,
                       x.data_ptr<float>(), weight.data_ptr<float>(), data_or_null(cos), data_or_null(sin),
                       y.data_ptr<float>());
    ctx->save_for_backward({x, weight, cos, sin});
    ctx->saved_data["eps"] = eps;
    ctx->saved_data["heads"] = heads;
    ctx->saved_data["per_sample"] = std::max<int64_t>(per_sample, 1);
    return y;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    MOGA_CHECK(!torch::GradMode::is_enabled(), "norm_rope has no second derivative (create_graph)");
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1];
    const Tensor dy = grads[0].contiguous();
    Tensor dx = torch::empty_like(x);
    Tensor dweight = torch::empty_like(weight);
    cpu::rms_norm_rope_backward(
        row_shape(x, ctx->saved_data["per_sample"].toInt(), ctx->saved_data["eps"].toDouble()),
        x.size(-1) / ctx->saved_data["heads"].toInt(), x.data_ptr<float>(), weight.data_ptr<float>(),
        data_or_null(saved[2]), data_or_null(saved[3]), dy.data_ptr<float>(), dx.data_ptr<float>(),
        dweight.data_ptr<float>());
    return {dx, dweight, Tensor(), Tensor(), Tensor()};
  }
};

class GeluTanh : public torch::autograd::Function<GeluTanh> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& given) {
    const Tensor x = given.contiguous();
    Tensor y = torch::empty_like(x);
    cpu::gelu_tanh(x.numel(), x.data_ptr<float>(), y.data_ptr<float>());
    ctx->save_for_backward({x});
    return y;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    MOGA_CHECK(!torch::GradMode::is_enabled(), "gelu_tanh has no second derivative (create_graph)");
    const Tensor x = ctx->get_saved_variables()[0];
    const Tensor dy = grads[0].contiguous();
    Tensor dx = torch::empty_like(x);
    cpu::gelu_tanh_backward(x.numel(), x.data_ptr<float>(), dy.data_ptr<float>(), dx.data_ptr<float>());
    return {dx};
  }
};

}  // namespace

Tensor gelu_tanh(const Tensor& x) {
  return is_plain(x) ? GeluTanh::apply(x) : torch::gelu(x, "tanh");
}

Tensor modulated_norm(const Tensor& x_BLC, const Tensor& shift_B1C, const Tensor& scale_B1C, double eps) {
  const bool fused = is_plain(x_BLC) && is_plain(shift_B1C) && is_plain(scale_B1C) && x_BLC.dim() == 3 &&
                     x_BLC.size(2) % 4 == 0 && shift_B1C.size(0) == x_BLC.size(0) &&
                     scale_B1C.size(0) == x_BLC.size(0) && x_BLC.numel() > 0;
  if (fused) {
    return ModulatedNorm::apply(x_BLC, shift_B1C, scale_B1C, eps);
  }
  return torch::addcmul(shift_B1C, torch::layer_norm(x_BLC, {x_BLC.size(-1)}, {}, {}, eps), 1 + scale_B1C);
}

Tensor norm_rope(const Tensor& x, const Tensor& weight_C, double eps, int64_t heads, const RopeTable* table) {
  const bool turnable =
      table == nullptr || (is_plain(table->cos_LP) && x.dim() == 3 && x.size(1) == table->cos_LP.size(0));
  if (is_plain(x) && is_plain(weight_C) && turnable && x.size(-1) / heads % 4 == 0 && x.numel() > 0) {
    return NormRope::apply(x, weight_C, table, eps, heads);
  }
  Tensor normed;
#if MOGA_TORCH_AT_LEAST(2, 8)
  if (x.is_cuda()) {  // one kernel
    normed = torch::rms_norm(x.to(weight_C.scalar_type()), {x.size(-1)}, weight_C, eps);
  }
#endif
  if (!normed.defined()) {
    const Tensor wide = x.scalar_type() == torch::kFloat64 ? x : x.to(torch::kFloat32);
    const Tensor scale = torch::rsqrt(wide.square().mean(-1, /*keepdim=*/true) + eps);
    normed = (wide * scale).to(x.scalar_type()) * weight_C;
  }
  return table == nullptr ? normed
                          : apply_rope(normed.unflatten(-1, {heads, x.size(-1) / heads}), *table).flatten(-2);
}

}  // namespace moga
