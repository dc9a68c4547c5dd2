#include "attention/fused_attention.h"

#include <limits>

#include "attention/segment_plan.h"
#include "attention/torch_compat.h"
#include "base/error.h"

namespace moga {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

#if MOGA_TORCH_AT_LEAST(2, 7)
constexpr bool kHaveFusedAttention = true;
#else
constexpr bool kHaveFusedAttention = false;
#endif

bool can_fuse_attention(const Tensor& q_LND, const Tensor& k_KND, const Groups& groups) {
  const bool half = q_LND.scalar_type() == torch::kFloat16 || q_LND.scalar_type() == torch::kBFloat16;
  return kHaveFusedAttention && q_LND.is_cuda() && half && q_LND.size(2) % 8 == 0 && q_LND.size(2) <= 256 &&
         groups.q_index.numel() > 0 && groups.kv_index.numel() > 0 && k_KND.numel() > 0;
}

#if MOGA_TORCH_AT_LEAST(2, 7)
namespace {

// One side of the groups as the kernel wants it.
struct Side {
  Tensor index;
  IndexOrder order;
  int64_t tokens;

  bool covers() const { return order != IndexOrder::kAny && index.numel() == tokens; }
  bool in_order() const { return covers() && order == IndexOrder::kIdentity; }

  // [tokens, ...] -> [slots, ...]
  Tensor gather(const Tensor& x) const { return in_order() ? x : x.index_select(0, index); }

  // The reverse, adding where a token has several slots and zero where it has none.
  Tensor scatter(const Tensor& x) const {
    if (in_order()) {
      return x;
    }
    auto sizes = x.sizes().vec();
    sizes[0] = tokens;
    if (covers()) {
      return torch::empty(sizes, x.options()).index_copy_(0, index, x);
    }
    return torch::zeros(sizes, x.options().dtype(torch::kFloat32))
        .index_add_(0, index, x.to(torch::kFloat32))
        .to(x.scalar_type());
  }
};

class FusedAttention : public torch::autograd::Function<FusedAttention> {
 public:
  static variable_list forward(AutogradContext* ctx, const Tensor& q_LND, const Tensor& k_KND,
                               const Tensor& v_KND, const compat::Optional<Tensor>& row_scale,
                               const Groups& groups, double scale) {
    const Side q_side{groups.q_index, groups.q_order, q_LND.size(0)};
    const Side kv_side{groups.kv_index, groups.kv_order, k_KND.size(0)};
    const DeviceOffsets offsets = device_offsets(groups, q_LND.device());
    const auto [out_SND, lse_NS, random, unused, mask] = at::_flash_attention_forward(
        q_side.gather(q_LND), kv_side.gather(k_KND), kv_side.gather(v_KND), offsets.q, offsets.kv,
        offsets.longest_q, offsets.longest_kv, /*dropout_p=*/0.0, /*is_causal=*/false,
        /*return_debug_mask=*/false, scale);
    Tensor scaled_SND = out_SND;
    if (row_scale.has_value()) {
      scaled_SND = out_SND * q_side.gather(*row_scale).to(out_SND.scalar_type()).view({-1, 1, 1});
    }
    ctx->save_for_backward({q_LND, k_KND, v_KND, row_scale.has_value() ? *row_scale : Tensor(),
                            groups.q_index, groups.kv_index, out_SND, lse_NS, offsets.q, offsets.kv, random,
                            unused});
    ctx->saved_data["longest_q"] = offsets.longest_q;
    ctx->saved_data["longest_kv"] = offsets.longest_kv;
    ctx->saved_data["q_order"] = static_cast<int64_t>(groups.q_order);
    ctx->saved_data["kv_order"] = static_cast<int64_t>(groups.kv_order);
    ctx->saved_data["scale"] = scale;
    const Tensor lse_SN = lse_NS.transpose(0, 1);
    ctx->mark_non_differentiable({lse_SN});
    return {q_side.scatter(scaled_SND), lse_SN};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    MOGA_CHECK(!torch::GradMode::is_enabled(), "grouped_attention has no second derivative (create_graph)");
    if (!grads[0].defined()) {
      return variable_list(6);
    }
    const auto saved = ctx->get_saved_variables();
    const Tensor &q_LND = saved[0], &k_KND = saved[1], &v_KND = saved[2], &row_scale_L = saved[3];
    const Tensor &out_SND = saved[6], &lse_NS = saved[7];
    const auto order = [&](const char* name) {
      return static_cast<IndexOrder>(ctx->saved_data[name].toInt());
    };
    const Side q_side{saved[4], order("q_order"), q_LND.size(0)};
    const Side kv_side{saved[5], order("kv_order"), k_KND.size(0)};
    Tensor g_SND = q_side.gather(grads[0]).to(out_SND.scalar_type());
    Tensor row_scale_grad;
    if (row_scale_L.defined()) {
      // forward: out = row_scale * o
      const Tensor product_S = (g_SND * out_SND).sum({1, 2}, /*keepdim=*/false, torch::kFloat32);
      row_scale_grad = q_side.scatter(product_S).to(row_scale_L.scalar_type());
      g_SND = g_SND * q_side.gather(row_scale_L).to(g_SND.scalar_type()).view({-1, 1, 1});
    }
    const auto [dq, dk, dv] = at::_flash_attention_backward(
        g_SND.contiguous(), q_side.gather(q_LND), kv_side.gather(k_KND), kv_side.gather(v_KND), out_SND,
        lse_NS, saved[8], saved[9], ctx->saved_data["longest_q"].toInt(),
        ctx->saved_data["longest_kv"].toInt(), 0.0, false, saved[10], saved[11],
        ctx->saved_data["scale"].toDouble());
    return {q_side.scatter(dq), kv_side.scatter(dk), kv_side.scatter(dv), row_scale_grad, Tensor(), Tensor()};
  }
};

}  // namespace

AttentionOutput fused_attention(const Tensor& q_LND, const Tensor& k_KND, const Tensor& v_KND,
                                const Groups& groups, const Tensor& row_scale_L, double scale) {
  const auto row_scale =
      row_scale_L.defined() ? compat::Optional<Tensor>(row_scale_L) : compat::Optional<Tensor>();
  const auto outputs = FusedAttention::apply(q_LND, k_KND, v_KND, row_scale, groups, scale);
  // The kernel writes +inf for a segment without keys.
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  return {outputs[0], outputs[1].masked_fill(outputs[1].eq(kInfinity), -kInfinity)};
}
#else
AttentionOutput fused_attention(const Tensor&, const Tensor&, const Tensor&, const Groups&, const Tensor&,
                                double) {
  fail("this libtorch has no fused attention");
}
#endif

}  // namespace moga
