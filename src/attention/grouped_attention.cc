// grouped_attention from libtorch's tensor operations: few batched products over padded batches of segments.
//
// Per slot i of a segment with keys j (a slot is an entry of q_index or kv_index):
//   s_ij = scale * q_i . k_j     lse_i = log sum_j exp(s_ij)     p_ij = exp(s_ij - lse_i)     o_i = sum_j
//   p_ij v_j out[token] = row_scale[token] * sum over the token's slots of o_i
// The backward pass recomputes s from q and k and p from lse, so that nothing of size L x L is kept.
// It does not fuse anything: that is for the kernels behind the same interface.
#include "attention/grouped_attention.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "attention/cpu_attention.h"
#include "attention/fused_attention.h"
#include "attention/grouped_attention_op.h"
#include "attention/segment_plan.h"
#include "attention/torch_compat.h"
#include "base/error.h"

namespace moga {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

bool is_half(torch::ScalarType type) {
  return type == torch::kFloat16 || type == torch::kBFloat16;
}

// Products: half precision stays half on a GPU (tensor cores) and is widened on a CPU, which has no fast half
// products. Sums over segments, softmax statistics and gradients to be added up: never in half.
torch::ScalarType product_type(const Tensor& q) {
  return is_half(q.scalar_type()) && q.device().is_cpu() ? torch::kFloat32 : q.scalar_type();
}
torch::ScalarType sum_type(const Tensor& q) {
  return is_half(q.scalar_type()) ? torch::kFloat32 : q.scalar_type();
}

// [L, N, D] -> [N, slots, D]: head-major, so that equal segments in a row are matrices in place.
Tensor to_slots(const Tensor& x_LND, const Tensor& index, torch::ScalarType type) {
  return x_LND.index_select(0, index).to(type).transpose(0, 1).contiguous();
}

// The reverse, adding: [N, slots, D] -> [tokens, N, D].
Tensor from_slots(const Tensor& x_NSD, const Tensor& index, int64_t tokens, torch::ScalarType type) {
  const Tensor rows_SND = x_NSD.transpose(0, 1).contiguous();
  return torch::zeros({tokens, x_NSD.size(0), x_NSD.size(2)}, x_NSD.options())
      .index_add_(0, index, rows_SND)
      .to(type);
}

// The rows of one side of a batch: x [H, slots, ...] -> [H, n * length, ...], a view where possible.
Tensor take(const Tensor& x_HSx, const PlanSide& side, int64_t count) {
  return side.in_place ? x_HSx.narrow(1, side.begin, count * side.length) : x_HSx.index_select(1, side.slots);
}

// [H, n * length, D] -> [H * n, length, D]
Tensor matrices(const Tensor& x_HSD, const PlanSide& side, int64_t count) {
  return x_HSD.reshape({x_HSD.size(0) * count, side.length, x_HSD.size(2)});
}

// Adds (or, into fresh memory, writes) the rows of a batch, padding left out.
enum class PutMode { kWrite, kAdd };
void put(const Tensor& into_HSx, const Tensor& rows, const PlanSide& side, int64_t count, PutMode mode) {
  auto sizes = into_HSx.sizes().vec();
  sizes[1] = count * side.length;
  const Tensor rows_HSx = rows.reshape(sizes);
  if (side.in_place) {
    Tensor target = into_HSx.narrow(1, side.begin, count * side.length);
    mode == PutMode::kWrite ? target.copy_(rows_HSx) : target.add_(rows_HSx);
    return;
  }
  const bool padded = side.padding.defined();
  const Tensor& slots = padded ? side.valid_slots : side.slots;
  const Tensor valid = padded ? rows_HSx.index_select(1, side.valid_places) : rows_HSx;
  Tensor target = into_HSx;
  mode == PutMode::kWrite ? target.index_copy_(1, slots, valid.to(into_HSx.scalar_type()))
                          : target.index_add_(1, slots, valid.to(into_HSx.scalar_type()));
}

// Scaled scores [H * n, a, b] in the statistics type; padded keys are -inf.
Tensor batch_scores(const Tensor& q_HnaD, const Tensor& k_HnbD, const PlanBatch& batch,
                    torch::ScalarType statistics) {
  Tensor s = torch::bmm(q_HnaD, k_HnbD.transpose(1, 2)).to(statistics);
  if (batch.kv.padding.defined()) {
    s.view({-1, batch.count, batch.q.length, batch.kv.length})
        .masked_fill_(batch.kv.padding.unsqueeze(1), -kInfinity);
  }
  return s;
}

struct Slots {
  Tensor q_NQD;  // scaled
  Tensor k_NKD;
  Tensor v_NKD;
};

// Runs body(head_begin, heads, batch) for every batch: on a GPU all heads at once; on a CPU one head at a
// time in parallel threads, whose products are single-threaded then. (libtorch 1.13's CPU bmm loops over the
// matrices, each threaded by itself: measured 15 against 134 GFLOP/s for p v of [6, 256 x 1200 x 32]
// on two busy cores.)
// kRun: batches that hold pieces of one segment go to one thread, since their key gradients add.
enum class TaskUnit { kBatch, kRun };
template <typename Body>
void for_each_batch(const SegmentPlan& plan, int64_t heads, bool on_cpu, TaskUnit unit, const Body& body) {
  if (!on_cpu) {
    for (const PlanBatch& batch : plan.batches) {
      body(0, heads, batch);
    }
    return;
  }
  const bool by_run = unit == TaskUnit::kRun;
  const auto tasks = static_cast<int64_t>(by_run ? plan.runs.size() - 1 : plan.batches.size());
  // Guards are thread-local; tensors made in inference mode may be written only in it.
  const bool inference = c10::InferenceMode::is_enabled();
  // Head-major order: neighbouring tasks share a head, so the keys stay in the cache.
  at::parallel_for(0, heads * tasks, 1, [&](int64_t begin, int64_t end) {
    const c10::InferenceMode mode(inference);
    const torch::NoGradGuard no_grad;
    for (int64_t task = begin; task < end; ++task) {
      const auto i = static_cast<size_t>(task % tasks);
      const size_t first = by_run ? plan.runs[i] : i;
      const size_t last = by_run ? plan.runs[i + 1] : i + 1;
      for (size_t b = first; b < last; ++b) {
        body(task / tasks, 1, plan.batches[b]);
      }
    }
  });
}

// out_NQD [N, Q, D] (unscaled) and lse_NQ [N, Q] of every slot.
std::pair<Tensor, Tensor> slots_forward(const Slots& slots, const SegmentPlan& plan,
                                        torch::ScalarType statistics) {
  const int64_t heads = slots.q_NQD.size(0);
  const auto options = slots.q_NQD.options().dtype(statistics);
  Tensor out_NQD = torch::zeros(slots.q_NQD.sizes(), options);
  Tensor lse_NQ = torch::full({heads, slots.q_NQD.size(1)}, -kInfinity, options);
  const auto forward = [&](int64_t h, int64_t count, const PlanBatch& batch) {
    const int64_t n = batch.count;
    const Tensor q = matrices(take(slots.q_NQD.narrow(0, h, count), batch.q, n), batch.q, n);
    const Tensor k = matrices(take(slots.k_NKD.narrow(0, h, count), batch.kv, n), batch.kv, n);
    const Tensor v = matrices(take(slots.v_NKD.narrow(0, h, count), batch.kv, n), batch.kv, n);
    Tensor p = batch_scores(q, k, batch, statistics);
    const Tensor top = p.amax(-1, /*keepdim=*/true);
    p.sub_(top).exp_();
    const Tensor sum = p.sum(-1, /*keepdim=*/true);
    const Tensor o = torch::bmm(p.to(v.scalar_type()), v).to(statistics).div_(sum);
    put(out_NQD.narrow(0, h, count), o, batch.q, n, PutMode::kWrite);
    put(lse_NQ.narrow(0, h, count), sum.log().add_(top), batch.q, n, PutMode::kWrite);
  };
  for_each_batch(plan, heads, slots.q_NQD.device().is_cpu(), TaskUnit::kBatch, forward);
  return {out_NQD, lse_NQ};
}

struct SlotGradients {
  Tensor q_NQD;
  Tensor k_NKD;
  Tensor v_NKD;
};

// g_NQD: gradient of the unscaled slot outputs. delta_NQ: sum over D of g * out.
SlotGradients slots_backward(const Slots& slots, const Tensor& g_NQD, const Tensor& delta_NQ,
                             const Tensor& lse_NQ, const SegmentPlan& plan) {
  const auto statistics = lse_NQ.scalar_type();
  const auto product = slots.q_NQD.scalar_type();
  const auto options = lse_NQ.options();
  SlotGradients grad = {torch::zeros(slots.q_NQD.sizes(), options),
                        torch::zeros(slots.k_NKD.sizes(), options),
                        torch::zeros(slots.v_NKD.sizes(), options)};
  const int64_t heads = slots.q_NQD.size(0);
  const auto differentiate = [&](int64_t h, int64_t count, const PlanBatch& batch) {
    const int64_t n = batch.count;
    const auto side = [&](const Tensor& x, const PlanSide& s) {
      return matrices(take(x.narrow(0, h, count), s, n), s, n);
    };
    const auto row = [&](const Tensor& x_NQ) {
      return take(x_NQ.narrow(0, h, count), batch.q, n).reshape({count * n, batch.q.length, 1});
    };
    const Tensor q = side(slots.q_NQD, batch.q);
    const Tensor k = side(slots.k_NKD, batch.kv);
    const Tensor v = side(slots.v_NKD, batch.kv);
    const Tensor g = side(g_NQD, batch.q);
    Tensor lse = row(lse_NQ);
    if (batch.q.padding.defined()) {
      // A padded query repeats a real one; with an infinite lse its p is 0, and it adds nothing to dk and
      // dv.
      lse = lse.contiguous();
      lse.view({count, n, batch.q.length}).masked_fill_(batch.q.padding, kInfinity);
    }
    // forward: s = q k^T; p = exp(s - lse)
    Tensor p = batch_scores(q, k, batch, statistics);
    p.sub_(lse).exp_();
    // forward: o = p v
    put(grad.v_NKD.narrow(0, h, count), torch::bmm(p.to(product).transpose(1, 2), g).to(statistics), batch.kv,
        n, PutMode::kAdd);
    const Tensor dp = torch::bmm(g, v.transpose(1, 2)).to(statistics);
    // forward: p = softmax(s), so ds = p * (dp - sum_j p dp), and that sum is g . o = delta
    const Tensor ds = p.mul_(dp.sub_(row(delta_NQ))).to(product);
    // forward: s = q k^T
    put(grad.q_NQD.narrow(0, h, count), torch::bmm(ds, k).to(statistics), batch.q, n, PutMode::kWrite);
    put(grad.k_NKD.narrow(0, h, count), torch::bmm(ds.transpose(1, 2), q).to(statistics), batch.kv, n,
        PutMode::kAdd);
  };
  for_each_batch(plan, heads, lse_NQ.device().is_cpu(), TaskUnit::kRun, differentiate);
  return grad;
}

// What backward needs beside tensors.
struct PlanHolder : torch::CustomClassHolder {
  std::shared_ptr<const SegmentPlan> plan;
};

class GroupedAttentionFunction : public torch::autograd::Function<GroupedAttentionFunction> {
 public:
  static variable_list forward(AutogradContext* ctx, const Tensor& q_LND, const Tensor& k_KND,
                               const Tensor& v_KND, const compat::Optional<Tensor>& row_scale,
                               const Groups& groups, double scale) {
    const Tensor row_scale_L = row_scale.has_value() ? *row_scale : Tensor();
    const auto plan = segment_plan(groups, q_LND.size(1), q_LND.device());
    const auto statistics = sum_type(q_LND);
    const Slots slots = gather(q_LND, k_KND, v_KND, groups.q_index, groups.kv_index, scale);
    const auto [out_NQD, lse_NQ] = slots_forward(slots, *plan, statistics);
    Tensor scaled_NQD = out_NQD;
    if (row_scale_L.defined()) {
      scaled_NQD = out_NQD * row_scale_L.to(statistics).index_select(0, groups.q_index).view({1, -1, 1});
    }
    const Tensor out_LND = from_slots(scaled_NQD, groups.q_index, q_LND.size(0), q_LND.scalar_type());
    const Tensor lse_QN = lse_NQ.transpose(0, 1).contiguous();

    ctx->save_for_backward(
        {q_LND, k_KND, v_KND, row_scale_L, groups.q_index, groups.kv_index, out_NQD, lse_NQ});
    auto holder = c10::make_intrusive<PlanHolder>();
    holder->plan = plan;
    ctx->saved_data["plan"] = torch::IValue::make_capsule(std::move(holder));
    ctx->saved_data["scale"] = scale;
    ctx->mark_non_differentiable({lse_QN});
    return {out_LND, lse_QN};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    MOGA_CHECK(!torch::GradMode::is_enabled(), "grouped_attention has no second derivative (create_graph)");
    const auto saved = ctx->get_saved_variables();
    const Tensor &q_LND = saved[0], &k_KND = saved[1], &v_KND = saved[2], &row_scale_L = saved[3];
    const Tensor &q_index = saved[4], &kv_index = saved[5], &out_NQD = saved[6], &lse_NQ = saved[7];
    const auto holder = c10::static_intrusive_pointer_cast<PlanHolder>(ctx->saved_data["plan"].toCapsule());
    const double scale = ctx->saved_data["scale"].toDouble();
    const auto statistics = lse_NQ.scalar_type();
    if (!grads[0].defined()) {
      return variable_list(6);
    }
    Tensor g_NQD = to_slots(grads[0], q_index, statistics);
    Tensor delta_NQ = (g_NQD * out_NQD).sum(-1);
    Tensor row_scale_grad;
    if (row_scale_L.defined()) {
      // forward: out = row_scale * o
      row_scale_grad = torch::zeros({row_scale_L.size(0)}, lse_NQ.options())
                           .index_add_(0, q_index, delta_NQ.sum(0))
                           .to(row_scale_L.scalar_type());
      const Tensor scale_Q = row_scale_L.to(statistics).index_select(0, q_index);
      g_NQD.mul_(scale_Q.view({1, -1, 1}));
      delta_NQ.mul_(scale_Q);
    }
    const Slots slots = gather(q_LND, k_KND, v_KND, q_index, kv_index, scale);
    SlotGradients grad =
        slots_backward(slots, g_NQD.to(slots.q_NQD.scalar_type()), delta_NQ, lse_NQ, *holder->plan);
    // forward: s = (scale * q) k^T; dk has its factor from the scaled q.
    grad.q_NQD.mul_(scale);
    return {from_slots(grad.q_NQD, q_index, q_LND.size(0), q_LND.scalar_type()),
            from_slots(grad.k_NKD, kv_index, k_KND.size(0), k_KND.scalar_type()),
            from_slots(grad.v_NKD, kv_index, v_KND.size(0), v_KND.scalar_type()),
            row_scale_grad,
            Tensor(),
            Tensor()};
  }

 private:
  static Slots gather(const Tensor& q_LND, const Tensor& k_KND, const Tensor& v_KND, const Tensor& q_index,
                      const Tensor& kv_index, double scale) {
    const auto type = product_type(q_LND);
    return {to_slots(q_LND, q_index, type).mul_(scale), to_slots(k_KND, kv_index, type),
            to_slots(v_KND, kv_index, type)};
  }
};

void check_inputs(const Tensor& q, const Tensor& k, const Tensor& v, const Groups& groups,
                  const Tensor& row_scale) {
  MOGA_CHECK(q.defined() && k.defined() && v.defined(), "grouped_attention: q, k and v must be given");
  MOGA_CHECK(q.dim() == 3 && k.dim() == 3 && v.dim() == 3,
             "grouped_attention: expected q, k, v as [tokens, heads, head size], found [{}], [{}], [{}]",
             fmt::join(q.sizes(), ", "), fmt::join(k.sizes(), ", "), fmt::join(v.sizes(), ", "));
  MOGA_CHECK(k.sizes() == v.sizes() && q.size(1) == k.size(1) && q.size(2) == k.size(2),
             "grouped_attention: shapes do not fit: q [{}], k [{}], v [{}]", fmt::join(q.sizes(), ", "),
             fmt::join(k.sizes(), ", "), fmt::join(v.sizes(), ", "));
  MOGA_CHECK(q.size(2) > 0, "grouped_attention: the head size is 0");
  MOGA_CHECK(
      q.is_floating_point() && q.scalar_type() == k.scalar_type() && q.scalar_type() == v.scalar_type(),
      "grouped_attention: expected one floating dtype, found q {}, k {}, v {}",
      c10::toString(q.scalar_type()), c10::toString(k.scalar_type()), c10::toString(v.scalar_type()));
  MOGA_CHECK(groups.q_index.defined() && groups.kv_index.defined(),
             "grouped_attention: the groups are empty objects");
  MOGA_CHECK(q.device() == k.device() && q.device() == v.device() && q.device() == groups.q_index.device() &&
                 q.device() == groups.kv_index.device(),
             "grouped_attention: expected one device, found q {}, k {}, v {}, q_index {}, kv_index {}",
             q.device().str(), k.device().str(), v.device().str(), groups.q_index.device().str(),
             groups.kv_index.device().str());
  if (row_scale.defined()) {
    MOGA_CHECK(row_scale.dim() == 1 && row_scale.size(0) == q.size(0) && row_scale.is_floating_point() &&
                   row_scale.device() == q.device(),
               "grouped_attention: expected a floating row_scale [{}] on {}, found {} [{}] on {}", q.size(0),
               q.device().str(), c10::toString(row_scale.scalar_type()), fmt::join(row_scale.sizes(), ", "),
               row_scale.device().str());
  }
  groups.check(q.size(0), k.size(0));
}

}  // namespace

static double default_scale(const Tensor& q_LND) {
  return 1.0 / std::sqrt(static_cast<double>(q_LND.size(2)));
}

AttentionOutput grouped_attention(const Tensor& q_LND, const Tensor& k_KND, const Tensor& v_KND,
                                  const Groups& groups, const Tensor& row_scale_L,
                                  std::optional<double> scale) {
  keep_grouped_attention_op();
  if (q_LND.defined() && k_KND.defined() && v_KND.defined()) {
    if (const auto type = compat::autocast_type(q_LND.device())) {
      const compat::Autocast off(q_LND.device(), std::nullopt);
      return grouped_attention(q_LND.to(*type), k_KND.to(*type), v_KND.to(*type), groups, row_scale_L, scale);
    }
  }
  check_inputs(q_LND, k_KND, v_KND, groups, row_scale_L);
  const double factor = scale.value_or(default_scale(q_LND));
  if (can_fuse_attention(q_LND, k_KND, groups)) {
    const auto result =
        fused_attention(q_LND, k_KND, v_KND, {{&groups, row_scale_L, 1.0}}, factor, /*want_lse=*/true);
    return {result.out_LND, result.lse_QN};
  }
  if (can_run_cpu_attention(q_LND)) {
    const auto result = cpu_attention(q_LND, k_KND, v_KND, {{&groups, row_scale_L, 1.0}}, factor);
    return {result.out_LND, result.lse_QN[0]};
  }
  return batched_attention(q_LND, k_KND, v_KND, groups, row_scale_L, factor);
}

Tensor summed_attention(const Tensor& q_LND, const Tensor& k_KND, const Tensor& v_KND,
                        const std::vector<AttentionPart>& parts) {
  MOGA_CHECK(!parts.empty(), "summed_attention: no parts");
  for (const AttentionPart& part : parts) {
    check_inputs(q_LND, k_KND, v_KND, *part.groups, part.row_scale_L);
  }
  if (!compat::autocast_type(q_LND.device()) && can_run_cpu_attention(q_LND)) {
    return cpu_attention(q_LND, k_KND, v_KND, parts, default_scale(q_LND)).out_LND;
  }
  const bool fused = std::all_of(parts.begin(), parts.end(), [&](const AttentionPart& part) {
    return can_fuse_attention(q_LND, k_KND, *part.groups);
  });
  if (!compat::autocast_type(q_LND.device()) && fused) {
    return fused_attention(q_LND, k_KND, v_KND, parts, default_scale(q_LND), /*want_lse=*/false).out_LND;
  }
  Tensor sum;
  for (const AttentionPart& part : parts) {
    // With a row scale the factor goes into it, which is L numbers instead of L * N * D.
    const bool scaled = part.row_scale_L.defined() && part.factor != 1.0;
    const Tensor out_LND = grouped_attention(q_LND, k_KND, v_KND, *part.groups,
                                             scaled ? part.row_scale_L * part.factor : part.row_scale_L)
                               .out_LND;
    const double factor = scaled ? 1.0 : part.factor;
    sum = sum.defined() ? torch::add(sum, out_LND, factor) : factor == 1.0 ? out_LND : out_LND * factor;
  }
  return sum;
}

AttentionOutput batched_attention(const Tensor& q_LND, const Tensor& k_KND, const Tensor& v_KND,
                                  const Groups& groups, const Tensor& row_scale_L,
                                  std::optional<double> scale) {
  check_inputs(q_LND, k_KND, v_KND, groups, row_scale_L);
  // libtorch takes an absent tensor as an argument only inside an optional.
  const auto row_scale =
      row_scale_L.defined() ? compat::Optional<Tensor>(row_scale_L) : compat::Optional<Tensor>();
  const auto outputs = GroupedAttentionFunction::apply(q_LND, k_KND, v_KND, row_scale, groups,
                                                       scale.value_or(default_scale(q_LND)));
  return {outputs[0], outputs[1]};
}

}  // namespace moga
