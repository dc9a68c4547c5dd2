#include "attention/cpu_attention.h"

#include <ATen/record_function.h>

#include <array>

#include "attention/segment_plan.h"
#include "attention/torch_compat.h"
#include "base/error.h"
#include "kernels/cpu/grouped_attention_cpu.h"

namespace moga {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

bool can_run_cpu_attention(const Tensor& q_LND) {
  const auto type = q_LND.scalar_type();
  return q_LND.is_cpu() && (type == torch::kFloat32 || type == torch::kBFloat16 || type == torch::kFloat16) &&
         q_LND.size(2) <= cpu::kMaxHeadSize;
}

namespace {

// Channels side by side, which the kernels want; the rest may be strided.
Tensor with_plain_rows(const Tensor& x) {
  return x.stride(-1) == 1 || x.size(-1) == 1 ? x : x.contiguous();
}

cpu::MutableRows rows_of(const Tensor& x) {
  cpu::MutableRows rows;
  rows.data = x.data_ptr();
  rows.storage = x.scalar_type() == torch::kFloat32    ? cpu::Storage::kFloat32
                 : x.scalar_type() == torch::kBFloat16 ? cpu::Storage::kBfloat16
                                                       : cpu::Storage::kFloat16;
  rows.tokens = x.size(0);
  rows.heads = x.size(1);
  rows.dim = x.size(2);
  rows.token_stride = x.stride(0);
  rows.head_stride = x.stride(1);
  return rows;
}

// What a part needs in both passes; holds the arrays that `segments` points to.
struct PreparedPart {
  Tensor q_index, q_offsets, kv_index, kv_offsets;
  Tensor row_scale_L;  // float32 or undefined
  float factor = 1.0F;
  std::shared_ptr<const cpu::AttentionPlan> plan;

  cpu::Segments segments() const {
    return {q_offsets.numel() - 1, q_index.data_ptr<int64_t>(), q_offsets.data_ptr<int64_t>(),
            kv_index.data_ptr<int64_t>(), kv_offsets.data_ptr<int64_t>()};
  }
  const float* row_scale() const { return row_scale_L.defined() ? row_scale_L.data_ptr<float>() : nullptr; }
};

PreparedPart prepare(const AttentionPart& part, const Tensor& q_LND, const Tensor& k_KND) {
  PreparedPart p;
  const Groups& groups = *part.groups;
  p.q_index = groups.q_index.contiguous();
  p.q_offsets = groups.q_offsets.contiguous();
  p.kv_index = groups.kv_index.contiguous();
  p.kv_offsets = groups.kv_offsets.contiguous();
  p.factor = static_cast<float>(part.factor);
  if (part.row_scale_L.defined()) {
    p.row_scale_L = part.row_scale_L.detach().to(torch::kFloat32).contiguous();
  }
  p.plan = cpu_plan(groups, p.segments(), {q_LND.size(0), k_KND.size(0), q_LND.size(1), q_LND.size(2)});
  return p;
}

struct PartsHolder : torch::CustomClassHolder {
  std::vector<PreparedPart> parts;
};

class CpuAttention : public torch::autograd::Function<CpuAttention> {
 public:
  // scales_PL: the row scales of those parts that have one, in their order. (A list of tensors would not be
  // seen by autograd.)
  static variable_list forward(AutogradContext* ctx, const Tensor& q_LND, const Tensor& k_KND,
                               const Tensor& v_KND, const compat::Optional<Tensor>& scales_PL,
                               const std::vector<AttentionPart>* all, double scale, bool keep) {
    RECORD_USER_SCOPE("moga::cpu_attention");  // seen by profilers
    const std::vector<AttentionPart>& parts = *all;
    const Tensor q = with_plain_rows(q_LND), k = with_plain_rows(k_KND), v = with_plain_rows(v_KND);
    auto holder = c10::make_intrusive<PartsHolder>();
    // A sum of several parts is rounded to half precision once.
    const bool exact = parts.size() == 1 || q.scalar_type() == torch::kFloat32;
    Tensor out = torch::empty(q.sizes(), q.options().dtype(exact ? q.scalar_type() : torch::kFloat32));
    variable_list saved = {q, k, v};
    variable_list outputs = {Tensor()};
    const auto wide = q.options().dtype(torch::kFloat32);
    for (size_t i = 0; i < parts.size(); ++i) {
      holder->parts.push_back(prepare(parts[i], q, k));
      const PreparedPart& part = holder->parts.back();
      const int64_t slots = part.q_index.numel();
      const Tensor lse_QN = torch::empty({slots, q.size(1)}, wide);
      const Tensor slot_out_QND = keep ? torch::empty({slots, q.size(1), q.size(2)}, wide) : Tensor();
      cpu::ForwardArguments x;
      x.q = rows_of(q);
      x.k = rows_of(k);
      x.v = rows_of(v);
      x.row_scale = part.row_scale();
      x.scale = static_cast<float>(scale);
      x.out = rows_of(out);
      x.output = i == 0 ? cpu::Output::kWrite : cpu::Output::kAdd;
      x.factor = part.factor;
      x.lse = lse_QN.data_ptr<float>();
      x.slot_out = keep ? slot_out_QND.data_ptr<float>() : nullptr;
      cpu::attention_forward(*part.plan, part.segments(), x);
      outputs.push_back(lse_QN);
      if (keep) {
        saved.push_back(lse_QN);
        saved.push_back(slot_out_QND);
      }
    }
    outputs[0] = out.to(q.scalar_type());
    if (keep) {
      ctx->save_for_backward(saved);
      ctx->saved_data["parts"] = torch::IValue::make_capsule(std::move(holder));
      ctx->saved_data["scale"] = scale;
      if (scales_PL.has_value()) {
        ctx->saved_data["scales_type"] = scales_PL->scalar_type();
      }
    }
    ctx->mark_non_differentiable({outputs.begin() + 1, outputs.end()});
    return outputs;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    MOGA_CHECK(!torch::GradMode::is_enabled(), "grouped_attention has no second derivative (create_graph)");
    const auto saved = ctx->get_saved_variables();
    const auto holder = c10::static_intrusive_pointer_cast<PartsHolder>(ctx->saved_data["parts"].toCapsule());
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2];
    variable_list result(7);  // one for each argument of forward()
    if (!grads[0].defined()) {
      return result;
    }
    RECORD_USER_SCOPE("moga::cpu_attention");
    const Tensor dout = with_plain_rows(grads[0].to(q.scalar_type()));
    const auto wide = q.options().dtype(torch::kFloat32);
    std::array<Tensor, 3> sums;
    variable_list scale_grads;
    for (size_t i = 0; i < holder->parts.size(); ++i) {
      const PreparedPart& part = holder->parts[i];
      const Tensor &lse_QN = saved[3 + 2 * i], &slot_out_QND = saved[4 + 2 * i];
      const std::array<Tensor, 3> grad = {torch::empty(q.sizes(), wide), torch::empty(k.sizes(), wide),
                                          torch::empty(v.sizes(), wide)};
      const Tensor row_scale_grad = part.row_scale_L.defined() ? torch::empty({q.size(0)}, wide) : Tensor();
      const Tensor delta_QN = torch::empty(lse_QN.sizes(), wide);
      cpu::BackwardArguments x;
      x.q = rows_of(q);
      x.k = rows_of(k);
      x.v = rows_of(v);
      x.row_scale = part.row_scale();
      x.scale = static_cast<float>(ctx->saved_data["scale"].toDouble());
      x.factor = part.factor;
      x.dout = rows_of(dout);
      x.lse = lse_QN.data_ptr<float>();
      x.slot_out = slot_out_QND.data_ptr<float>();
      x.dq = grad[0].data_ptr<float>();
      x.dk = grad[1].data_ptr<float>();
      x.dv = grad[2].data_ptr<float>();
      x.drow_scale = row_scale_grad.defined() ? row_scale_grad.data_ptr<float>() : nullptr;
      x.delta = delta_QN.data_ptr<float>();
      cpu::attention_backward(*part.plan, part.segments(), x);
      if (row_scale_grad.defined()) {
        scale_grads.push_back(row_scale_grad);
      }
      for (size_t j = 0; j < 3; ++j) {
        sums[j] = i == 0 ? grad[j] : sums[j].add_(grad[j]);
      }
    }
    for (size_t j = 0; j < 3; ++j) {
      result[j] = sums[j].to(q.scalar_type());
    }
    if (!scale_grads.empty()) {
      result[3] = torch::stack(scale_grads).to(ctx->saved_data["scales_type"].toScalarType());
    }
    return result;
  }
};

}  // namespace

CpuAttentionOutput cpu_attention(const Tensor& q_LND, const Tensor& k_KND, const Tensor& v_KND,
                                 const std::vector<AttentionPart>& parts, double scale) {
  variable_list scales;
  for (const AttentionPart& part : parts) {
    if (part.row_scale_L.defined()) {
      scales.push_back(part.row_scale_L);
    }
  }
  const auto scales_PL =
      scales.empty() ? compat::Optional<Tensor>() : compat::Optional<Tensor>(torch::stack(scales));
  const bool wants = q_LND.requires_grad() || k_KND.requires_grad() || v_KND.requires_grad() ||
                     (scales_PL.has_value() && scales_PL->requires_grad());
  // What only the backward pass needs is not even made without one.
  const auto outputs = CpuAttention::apply(q_LND, k_KND, v_KND, scales_PL, &parts, scale,
                                           wants && torch::GradMode::is_enabled());
  return {outputs[0], {outputs.begin() + 1, outputs.end()}};
}

}  // namespace moga
