#include "attention/router.h"

#include "base/error.h"

namespace moga {

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
  const torch::Tensor scores_LM = linear->forward(x_LC);
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
  const int64_t tokens = std::max<int64_t>(routing.probs_LM.size(0), 1);
  const int64_t group_count = routing.probs_LM.size(1);
  const auto share_M = group_occupancy(routing).to(routing.probs_LM.scalar_type());
  const auto mean_prob_M =
      form == BalanceForm::kSwitch
          ? routing.probs_LM.sum(0) / tokens
          : torch::zeros_like(share_M).index_add(0, routing.group_ids_L, routing.top_prob_L) / tokens;
  return static_cast<double>(group_count) * (share_M * mean_prob_M).sum();
}

}  // namespace moga
