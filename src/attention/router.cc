#include "attention/router.h"

#include "attention/device_kernels.h"
#include "base/error.h"
#include "kernels/cpu/row_kernels.h"

namespace moga {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Softmax, argmax and its probability in one kernel; probs_LM, ids_L, top_L as device_route() gives them.
class DeviceRouting : public torch::autograd::Function<DeviceRouting> {
 public:
  static variable_list forward(AutogradContext* ctx, const torch::Tensor& scores_LM) {
    if constexpr (kHaveDeviceKernels) {
      auto [probs_LM, ids_L, top_L] = device_route(scores_LM);
      ctx->save_for_backward({probs_LM, ids_L});
      ctx->saved_data["type"] = scores_LM.scalar_type();
      ctx->mark_non_differentiable({ids_L});
      return {probs_LM, ids_L, top_L};
    }
    fail("this build has no GPU kernels");
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const torch::Tensor &probs_LM = saved[0], &ids_L = saved[1];
    // forward: top = probs[id], so its gradient joins that of the probabilities
    torch::Tensor g_LM = grads[0].defined() ? grads[0] : torch::zeros_like(probs_LM);
    if (grads[2].defined()) {
      g_LM = g_LM.scatter_add(1, ids_L.unsqueeze(1), grads[2].unsqueeze(1));
    }
    // forward: probs = softmax(scores)
    const torch::Tensor scores_grad = probs_LM * (g_LM - (g_LM * probs_LM).sum(-1, /*keepdim=*/true));
    return {scores_grad.to(ctx->saved_data["type"].toScalarType())};
  }
};

// Scores of a few groups on a CPU, where libtorch's product spends its time on rearranging x.
class RouterScores : public torch::autograd::Function<RouterScores> {
 public:
  static torch::Tensor forward(AutogradContext* ctx, const torch::Tensor& x_LC,
                               const torch::Tensor& weight_MC, const torch::Tensor& bias_M) {
    const torch::Tensor x = x_LC.contiguous();
    torch::Tensor scores_LM = torch::empty({x.size(0), weight_MC.size(0)}, x.options());
    cpu::row_products(x.size(0), x.size(1), weight_MC.size(0), x.data_ptr<float>(),
                      weight_MC.data_ptr<float>(), bias_M.data_ptr<float>(), scores_LM.data_ptr<float>());
    ctx->save_for_backward({x, weight_MC});
    return scores_LM;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const torch::Tensor& g_LM = grads[0];
    return {torch::mm(g_LM, saved[1]), torch::mm(g_LM.t(), saved[0]), g_LM.sum(0)};
  }
};

bool scores_by_rows(const torch::Tensor& x_LC, const torch::Tensor& weight_MC) {
  constexpr int64_t kFew = 16;
  return x_LC.is_cpu() && x_LC.scalar_type() == torch::kFloat32 && x_LC.size(1) % 4 == 0 &&
         weight_MC.scalar_type() == torch::kFloat32 && weight_MC.is_contiguous() && weight_MC.size(0) <= kFew;
}

bool routes_on_device(const torch::Tensor& scores_LM) {
  constexpr int64_t kMostGroups = 64;  // a thread reads all scores of its token
  return kHaveDeviceKernels && scores_LM.is_cuda() && scores_LM.scalar_type() != torch::kFloat64 &&
         scores_LM.size(1) <= kMostGroups;
}

}  // namespace

RouterImpl::RouterImpl(int64_t width, int64_t group_count) : group_count_(group_count) {
  MOGA_CHECK(width > 0 && group_count > 0,
             "router: expected a positive width and group count, found {} and {}", width, group_count);
  // The parameters carry no name of their own below the router ("router.weight", not "router.linear.weight"),
  // so the layer's tensors are registered here and the layer itself is not.
  linear = torch::nn::Linear(width, group_count);
  register_parameter("weight", linear->weight);
  register_parameter("bias", linear->bias);
}

Routing RouterImpl::forward(const torch::Tensor& x_LC) {
  MOGA_CHECK(x_LC.dim() == 2 && x_LC.size(1) == linear->options.in_features(),
             "router: expected hidden states [L, {}], found {}", linear->options.in_features(),
             fmt::join(x_LC.sizes(), " x "));
  Routing routing;
  const torch::Tensor scores_LM = scores_by_rows(x_LC, linear->weight)
                                      ? RouterScores::apply(x_LC, linear->weight, linear->bias)
                                      : linear->forward(x_LC);
  if (routes_on_device(scores_LM)) {
    const auto outputs = DeviceRouting::apply(scores_LM);
    return {outputs[0], outputs[1], outputs[2]};
  }
  // Half precision cannot tell close groups apart; the softmax is M values a token, so float32 costs nothing.
  const auto wide = scores_LM.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
  routing.probs_LM = torch::softmax(scores_LM.to(wide), -1);
  auto [top_prob_L1, id_L1] = routing.probs_LM.max(-1, /*keepdim=*/true);
  routing.group_ids_L = id_L1.squeeze(-1);
  routing.top_prob_L = top_prob_L1.squeeze(-1);
  return routing;
}

torch::Tensor group_occupancy(const Routing& routing) {
  const int64_t tokens = std::max<int64_t>(routing.group_ids_L.numel(), 1);
  const auto group_M = torch::arange(routing.probs_LM.size(1), routing.group_ids_L.options());
  return routing.group_ids_L.unsqueeze(1).eq(group_M).sum(0).to(torch::kFloat32).div_(tokens);
}

torch::Tensor balance_loss(const Routing& routing, BalanceForm form) {
  MOGA_CHECK(routing.probs_LM.defined() && routing.probs_LM.dim() == 2, "balance loss: no routing given");
  return balance_loss_part(routing, form, group_occupancy(routing), routing.probs_LM.size(0));
}

torch::Tensor balance_loss_part(const Routing& routing, BalanceForm form, const torch::Tensor& share_M,
                                int64_t all_tokens) {
  MOGA_CHECK(routing.probs_LM.defined() && routing.probs_LM.dim() == 2, "balance loss: no routing given");
  const int64_t tokens = std::max<int64_t>(all_tokens, 1);
  const int64_t group_count = routing.probs_LM.size(1);
  const auto wide_share_M = share_M.to(routing.probs_LM.scalar_type());
  const auto mean_prob_M =
      form == BalanceForm::kSwitch
          ? routing.probs_LM.sum(0) / tokens
          : torch::zeros_like(wide_share_M).index_add(0, routing.group_ids_L, routing.top_prob_L) / tokens;
  return static_cast<double>(group_count) * (wide_share_M * mean_prob_M).sum();
}

}  // namespace moga
