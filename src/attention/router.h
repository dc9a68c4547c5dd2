// The token router (paper eqs. 2-5): one linear layer, softmax, top-1. Shared by all heads of a layer.
#pragma once

#include <torch/torch.h>

#include "base/config.h"

namespace moga {

struct Routing {
  torch::Tensor probs_LM;     // [L, M] softmax scores (float32 or wider), with gradient
  torch::Tensor group_ids_L;  // [L] int64, argmax (the lowest id wins a tie)
  torch::Tensor top_prob_L;   // [L] p(g(x)|x), with gradient
};

// x_LC: [L, C] the normalised, modulated hidden state that feeds the q/k/v projections.
class RouterImpl : public torch::nn::Module {
 public:
  RouterImpl(int64_t width, int64_t group_count);
  Routing forward(const torch::Tensor& x_LC);
  int64_t group_count() const { return group_count_; }
  torch::nn::Linear linear{nullptr};  // weights are named "router.weight", "router.bias" in checkpoints

 private:
  int64_t group_count_;
};
TORCH_MODULE(Router);

// The balancing loss (eqs. 6-8) without its weight alpha: M * sum_i F_i P_i, F without gradient.
enum class BalanceForm {
  kPaper,   // P_i = mean over all L tokens of p(g(x)|x) where g(x) = i, as printed
  kSwitch,  // P_i = mean over all L tokens of p(i|x), as in the Switch Transformer; 1 at uniform routing
};
template <>
struct EnumNames<BalanceForm> {
  static constexpr std::array<std::pair<BalanceForm, const char*>, 2> kNames = {
      {{BalanceForm::kPaper, "paper"}, {BalanceForm::kSwitch, "switch"}}};
};
torch::Tensor balance_loss(const Routing& routing, BalanceForm form);

// The part of it that `routing` adds when it is of some of `all_tokens` tokens alone, of which share_M are in
// each group: the parts of all tokens add up to the loss.
torch::Tensor balance_loss_part(const Routing& routing, BalanceForm form, const torch::Tensor& share_M,
                                int64_t all_tokens);

// F: the share of tokens in each group. [M] float32, no gradient.
torch::Tensor group_occupancy(const Routing& routing);

}  // namespace moga
