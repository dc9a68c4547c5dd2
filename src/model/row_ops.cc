#include "model/row_ops.h"

#include <functional>
#include <optional>

#include "attention/torch_compat.h"
#include "base/error.h"
#include "kernels/cpu/gelu.h"
#include "kernels/cpu/row_kernels.h"
#include "model/device_row_ops.h"

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

// The type that the matrix product behind a norm takes, so that a norm on a GPU can write it: autocast's, or
// that of the norm's input.
torch::ScalarType product_type(const Tensor& x) {
  return compat::autocast_type(x.device()).value_or(x.scalar_type());
}

Tensor plain_modulated_norm(const Tensor& x_BLC, const Tensor& shift_B1C, const Tensor& scale_B1C,
                            double eps) {
  return torch::addcmul(shift_B1C, torch::layer_norm(x_BLC, {x_BLC.size(-1)}, {}, {}, eps), 1 + scale_B1C);
}

Tensor plain_norm_rope(const Tensor& x, const Tensor& weight_C, double eps, int64_t heads,
                       const RopeTable* table) {
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

// One kernel forward; backward through libtorch's own operations, computed again from the inputs.
class DeviceRows : public torch::autograd::Function<DeviceRows> {
 public:
  using Operation = std::function<Tensor(const Tensor& x, const Tensor& a, const Tensor& b)>;
  struct Plain : torch::CustomClassHolder {
    Operation operation;
  };

  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& a,
                        const compat::Optional<Tensor>& b, const Operation& fused, const Operation& plain) {
    const Tensor second = b.value_or(Tensor());
    auto kept = c10::make_intrusive<Plain>();
    kept->operation = plain;
    ctx->save_for_backward({x, a, second});
    ctx->saved_data["plain"] = torch::IValue::make_capsule(std::move(kept));
    return fused(x, a, second);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    MOGA_CHECK(!torch::GradMode::is_enabled(), "norms have no second derivative on a GPU (create_graph)");
    const auto kept = c10::static_intrusive_pointer_cast<Plain>(ctx->saved_data["plain"].toCapsule());
    variable_list inputs = ctx->get_saved_variables();
    variable_list wanted;
    for (Tensor& input : inputs) {
      if (input.defined()) {
        const bool wants = input.requires_grad();
        input = input.detach().requires_grad_(wants);
        if (wants) {
          wanted.push_back(input);
        }
      }
    }
    const torch::AutoGradMode record(true);
    const Tensor y = kept->operation(inputs[0], inputs[1], inputs[2]);
    const auto found = torch::autograd::grad({y}, wanted, {grads[0].to(y.scalar_type())});
    variable_list result(5);  // one for each argument of forward()
    for (size_t i = 0, next = 0; i < inputs.size(); ++i) {
      if (inputs[i].defined() && inputs[i].requires_grad()) {
        result[i] = found[next++];
      }
    }
    return result;
  }
};

}  // namespace

Tensor gelu_tanh(const Tensor& x) {
  return is_plain(x) ? GeluTanh::apply(x) : torch::gelu(x, "tanh");
}

Tensor gelu_tanh_of_own(Tensor x) {
  if (torch::GradMode::is_enabled() || (is_plain(x) && !x.is_contiguous())) {
    return gelu_tanh(x);
  }
  if (!is_plain(x)) {
    return torch::gelu_(x, "tanh");
  }
  cpu::gelu_tanh(x.numel(), x.data_ptr<float>(), x.data_ptr<float>());
  return x;
}

Tensor modulated_norm(const Tensor& x_BLC, const Tensor& shift_B1C, const Tensor& scale_B1C, double eps) {
  const bool fused = is_plain(x_BLC) && is_plain(shift_B1C) && is_plain(scale_B1C) && x_BLC.dim() == 3 &&
                     x_BLC.size(2) % 4 == 0 && shift_B1C.size(0) == x_BLC.size(0) &&
                     scale_B1C.size(0) == x_BLC.size(0) && x_BLC.numel() > 0;
  if (fused) {
    return ModulatedNorm::apply(x_BLC, shift_B1C, scale_B1C, eps);
  }
  if (device_takes_rows(x_BLC)) {
    const auto type = product_type(x_BLC);
    return DeviceRows::apply(
        x_BLC, shift_B1C, scale_B1C,
        [=](const Tensor& x, const Tensor& shift, const Tensor& scale) {
          return device_norm_modulate(x, scale, shift, /*plus=*/1, eps, type);
        },
        [=](const Tensor& x, const Tensor& shift, const Tensor& scale) {
          return plain_modulated_norm(x, shift, scale, eps);
        });
  }
  return plain_modulated_norm(x_BLC, shift_B1C, scale_B1C, eps);
}

Tensor affine_norm(const Tensor& x, const Tensor& weight_C, const Tensor& bias_C, double eps) {
  const auto plain = [eps](const Tensor& value, const Tensor& weight, const Tensor& bias) {
    return torch::layer_norm(value, {value.size(-1)}, weight, bias, eps);
  };
  if (!device_takes_rows(x)) {
    return plain(x, weight_C, bias_C);
  }
  const auto type = product_type(x);
  return DeviceRows::apply(
      x, weight_C, bias_C,
      [=](const Tensor& value, const Tensor& weight, const Tensor& bias) {
        return device_norm_modulate(value, weight, bias, /*plus=*/0, eps, type);
      },
      plain);
}

Tensor norm_rope(const Tensor& x, const Tensor& weight_C, double eps, int64_t heads, const RopeTable* table) {
  const bool turnable =
      table == nullptr || (is_plain(table->cos_LP) && x.dim() == 3 && x.size(1) == table->cos_LP.size(0));
  if (is_plain(x) && is_plain(weight_C) && turnable && x.size(-1) / heads % 4 == 0 && x.numel() > 0) {
    return NormRope::apply(x, weight_C, table, eps, heads);
  }
  const auto copy = table == nullptr ? std::nullopt : std::optional(*table);
  const auto plain = [=](const Tensor& value, const Tensor& weight, const Tensor&) {
    return plain_norm_rope(value, weight, eps, heads, copy ? &*copy : nullptr);
  };
  const bool whole_heads = x.size(-1) / heads % 8 == 0;
  if (device_takes_rows(x) && whole_heads && (table == nullptr || x.size(1) == table->cos_LP.size(0))) {
    const auto type = product_type(x);
    return DeviceRows::apply(
        x, weight_C, compat::Optional<Tensor>(),
        [=](const Tensor& value, const Tensor& weight, const Tensor&) {
          return device_norm_rope(value, weight, eps, heads, copy ? &*copy : nullptr, type);
        },
        plain);
  }
  return plain(x, weight_C, {});
}

Tensor gated_sum(const Tensor& x_BLC, const Tensor& gate_B1C, const Tensor& y_BLC) {
  // Autocast would widen y in a pass of its own.
  const compat::Autocast off(x_BLC.device(), std::nullopt);
  return torch::addcmul(x_BLC, gate_B1C, y_BLC);
}

}  // namespace moga
