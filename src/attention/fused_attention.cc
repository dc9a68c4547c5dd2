#include "attention/fused_attention.h"

#include <algorithm>
#include <limits>

#include "attention/segment_plan.h"
#include "attention/torch_compat.h"
#include "base/error.h"

#ifdef MOGA_TORCH_CUDA
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <cuda_runtime_api.h>
#endif

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

// 90 for compute capability 9.0; 0 where this build cannot ask.
int device_capability(torch::Device device) {
#ifdef MOGA_TORCH_CUDA
  int major = 0;
  int minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device.index());
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device.index());
  return 10 * major + minor;
#else
  (void)device;
  return 0;
#endif
}

bool recording_graph() {
#ifdef MOGA_TORCH_CUDA
  return c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None;
#else
  return true;  // unknown, so the careful answer
#endif
}

// The segments of one part, and who attends in them. Kept from the forward to the backward pass.
struct FusedPart {
  SlotSide q;
  SlotSide kv;
  DeviceOffsets offsets;
  int64_t segments = 0;
  Tensor row_scale_L;  // detached; or undefined
  double factor = 1;
  FusedBackend backend = FusedBackend::kFlash;
};

FusedPart prepare_fused(const AttentionPart& part, const Tensor& q_LND, const Tensor& k_KND, bool backward) {
  const Groups& groups = *part.groups;
  FusedPart p;
  p.q = q_slot_side(groups, q_LND.size(0));
  p.kv = kv_slot_side(groups, k_KND.size(0));
  p.offsets = device_offsets(groups, q_LND.device());
  p.segments = groups.segments();
  p.row_scale_L = part.row_scale_L.defined() ? part.row_scale_L.detach() : Tensor();
  p.factor = part.factor;
  FusedCase c;
  c.heads = q_LND.size(1);
  c.head_size = q_LND.size(2);
  c.segments = p.segments;
  c.longest_q = p.offsets.longest_q;
  c.longest_kv = p.offsets.longest_kv;
  c.flop = 4.0 * static_cast<double>(groups.q_index.numel()) * static_cast<double>(groups.kv_index.numel()) /
           static_cast<double>(std::max<int64_t>(1, p.segments)) * static_cast<double>(c.head_size * c.heads);
  c.equal = p.offsets.equal;
  c.self = groups.q_offsets.is_same(groups.kv_offsets);
  c.backward = backward;
  c.capturing = recording_graph();
  c.capability = device_capability(q_LND.device());
  c.cudnn = at::globalContext().hasCuDNN() && at::globalContext().userEnabledCuDNNSDP();
  const auto forced = forced_backend();
  p.backend = forced && can_serve(*forced, c) ? *forced : choose_backend(c);
  return p;
}

// Outputs of all slots before the row scale, and what the backward pass wants of the forward pass.
struct FusedSlots {
  Tensor out_SND;
  Tensor lse;  // as the backend lays it out
  Tensor random, unused;
};

// [slots, N, D] -> [segments, N, length, D], a view.
Tensor as_batch(const Tensor& x_SND, int64_t segments) {
  return x_SND.unflatten(0, {segments, x_SND.size(0) / segments}).transpose(1, 2);
}

Tensor from_batch(const Tensor& x_SNlD) {
  return x_SNlD.transpose(1, 2).flatten(0, 1);
}

FusedSlots attend(const FusedPart& part, const Tensor& q, const Tensor& k, const Tensor& v, double scale,
                  bool want_lse) {
  const DeviceOffsets& o = part.offsets;
  const compat::Optional<Tensor> none;
  if (part.backend == FusedBackend::kFlash) {
    auto [out, lse, random, unused, mask] =
        at::_flash_attention_forward(q, k, v, o.q, o.kv, o.longest_q, o.longest_kv, /*dropout_p=*/0.0,
                                     /*is_causal=*/false, /*return_debug_mask=*/false, scale);
    return {out, lse, random, unused};
  }
  const bool dense = part.backend == FusedBackend::kCudnnDense;
  const auto shape = [&](const Tensor& x) { return dense ? as_batch(x, part.segments) : x; };
  auto result = at::_cudnn_attention_forward(shape(q), shape(k), shape(v), none,
                                             dense ? none : compat::Optional<Tensor>(o.q),
                                             dense ? none : compat::Optional<Tensor>(o.kv), o.longest_q,
                                             o.longest_kv, want_lse, 0.0, false, false, scale);
  const Tensor& out = std::get<0>(result);
  return {dense ? from_batch(out) : out, std::get<1>(result), std::get<6>(result), std::get<7>(result)};
}

// Gradients of q, k and v of all slots.
std::array<Tensor, 3> attend_backward(const FusedPart& part, const Tensor& g_SND, const Tensor& q,
                                      const Tensor& k, const Tensor& v, const FusedSlots& kept,
                                      double scale) {
  const DeviceOffsets& o = part.offsets;
  if (part.backend == FusedBackend::kFlash) {
    auto [dq, dk, dv] =
        at::_flash_attention_backward(g_SND.contiguous(), q, k, v, kept.out_SND, kept.lse, o.q, o.kv,
                                      o.longest_q, o.longest_kv, 0.0, false, kept.random, kept.unused, scale);
    return {dq, dk, dv};
  }
  // cuDNN's batch; over segments of any length it serves no backward pass (can_serve).
  const auto batch = [&](const Tensor& x) { return as_batch(x, part.segments); };
  auto [dq, dk, dv] = at::_cudnn_attention_backward(
      batch(g_SND.contiguous()), batch(q), batch(k), batch(v), batch(kept.out_SND), kept.lse, kept.random,
      kept.unused, /*attn_bias=*/Tensor(), Tensor(), Tensor(), o.longest_q, o.longest_kv, 0.0, false, scale);
  return {from_batch(dq), from_batch(dk), from_batch(dv)};
}

// The backend's log-sum-exp as [slots, N], -inf where the segment has no keys.
Tensor lse_of_slots(const FusedPart& part, const FusedSlots& slots) {
  switch (part.backend) {
    case FusedBackend::kFlash: {  // [N, slots], +inf without keys
      constexpr double kInfinity = std::numeric_limits<double>::infinity();
      const Tensor lse_SN = slots.lse.transpose(0, 1);
      return lse_SN.masked_fill(lse_SN.eq(kInfinity), -kInfinity);
    }
    case FusedBackend::kCudnnVarlen:  // [slots, N, 1]
      return slots.lse.reshape({slots.out_SND.size(0), slots.out_SND.size(1)});
    case FusedBackend::kCudnnDense:  // [segments, N, length] or [segments, N, length, 1]
      return slots.lse.reshape({part.segments, slots.out_SND.size(1), -1}).transpose(1, 2).flatten(0, 1);
  }
  fail("fused attention: unknown backend");
}

struct FusedPartsHolder : torch::CustomClassHolder {
  std::vector<FusedPart> parts;
};

constexpr size_t kSavedAPart = 4;

class FusedAttention : public torch::autograd::Function<FusedAttention> {
 public:
  // scales_PL: the row scales of those parts that have one, in their order, for autograd, which does not look
  // into the parts.
  static variable_list forward(AutogradContext* ctx, const Tensor& q_LND, const Tensor& k_KND,
                               const Tensor& v_KND, const compat::Optional<Tensor>& scales_PL,
                               const std::vector<AttentionPart>* all, double scale, bool want_lse,
                               bool keep) {
    RECORD_USER_SCOPE("moga::fused_attention");
    auto holder = c10::make_intrusive<FusedPartsHolder>();
    const bool single = all->size() == 1;
    Tensor out_LND = single ? Tensor() : torch::empty(q_LND.sizes(), q_LND.options());
    Tensor lse_SN;
    variable_list saved = {q_LND, k_KND, v_KND};
    for (size_t i = 0; i < all->size(); ++i) {
      holder->parts.push_back(prepare_fused((*all)[i], q_LND, k_KND, keep));
      const FusedPart& part = holder->parts.back();
      FusedSlots slots;
      {
        const auto rows = gather_slots({{q_LND, &part.q}, {k_KND, &part.kv}, {v_KND, &part.kv}});
        slots = attend(part, rows[0], rows[1], rows[2], scale, want_lse || keep);
      }
      out_LND = scatter_slots(slots.out_SND, part.q, part.row_scale_L, part.factor, out_LND, i > 0);
      if (want_lse && i == 0) {
        lse_SN = lse_of_slots(part, slots);
      }
      if (keep) {
        saved.insert(saved.end(), {slots.out_SND, slots.lse, slots.random, slots.unused});
      }
    }
    if (keep) {
      ctx->save_for_backward(saved);
      ctx->saved_data["parts"] = torch::IValue::make_capsule(std::move(holder));
      ctx->saved_data["scale"] = scale;
      if (scales_PL.has_value()) {
        ctx->saved_data["scales_type"] = scales_PL->scalar_type();
      }
    }
    if (!want_lse) {
      return {out_LND};
    }
    ctx->mark_non_differentiable({lse_SN});
    return {out_LND, lse_SN};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    MOGA_CHECK(!torch::GradMode::is_enabled(), "grouped_attention has no second derivative (create_graph)");
    variable_list result(8);  // one for each argument of forward()
    if (!grads[0].defined()) {
      return result;
    }
    const auto saved = ctx->get_saved_variables();
    const auto holder =
        c10::static_intrusive_pointer_cast<FusedPartsHolder>(ctx->saved_data["parts"].toCapsule());
    const double scale = ctx->saved_data["scale"].toDouble();
    variable_list scale_grads;
    for (size_t i = 0; i < holder->parts.size(); ++i) {
      const FusedPart& part = holder->parts[i];
      const Tensor* own = saved.data() + 3 + kSavedAPart * i;
      const FusedSlots kept = {own[0], own[1], own[2], own[3]};
      const SlotGradient g =
          scatter_slots_gradient(grads[0], kept.out_SND, part.q, part.row_scale_L, part.factor);
      if (g.row_scale_L.defined()) {
        scale_grads.push_back(g.row_scale_L);
      }
      const auto rows = gather_slots({{saved[0], &part.q}, {saved[1], &part.kv}, {saved[2], &part.kv}});
      const auto slot_grads = attend_backward(part, g.x_SND, rows[0], rows[1], rows[2], kept, scale);
      for (size_t j = 0; j < 3; ++j) {
        result[j] = scatter_slots(slot_grads[j], j == 0 ? part.q : part.kv, {}, 1, result[j], i > 0);
      }
    }
    if (!scale_grads.empty()) {
      result[3] = torch::stack(scale_grads).to(ctx->saved_data["scales_type"].toScalarType());
    }
    return result;
  }
};

}  // namespace

FusedOutput fused_attention(const Tensor& q_LND, const Tensor& k_KND, const Tensor& v_KND,
                            const std::vector<AttentionPart>& parts, double scale, bool want_lse) {
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
  const auto outputs = FusedAttention::apply(q_LND, k_KND, v_KND, scales_PL, &parts, scale, want_lse,
                                             wants && torch::GradMode::is_enabled());
  return {outputs[0], want_lse ? outputs[1] : Tensor()};
}
#else
FusedOutput fused_attention(const Tensor&, const Tensor&, const Tensor&, const std::vector<AttentionPart>&,
                            double, bool) {
  fail("this libtorch has no fused attention");
}
#endif

}  // namespace moga
