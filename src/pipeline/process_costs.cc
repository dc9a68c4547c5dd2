#include "pipeline/process_costs.h"

#include <algorithm>

#include "base/error.h"
#include "distributed/communicator.h"
#include "pipeline/costs.h"
#include "pipeline/step_memory.h"

namespace moga {

namespace {

constexpr double kFloat = 4;    // bytes of a float32
constexpr double kGroupId = 4;  // of a token's group id on its way

struct Share {
  double tokens;       // l
  double heads;        // n
  double most_tokens;  // of any rank
};

// Fills in what a rank with `share` sends.
void count_sent(const FilmPlan& plan, const Share& share, double activation_bytes, RankCosts& rank) {
  const DitConfig& dit = plan.request.model.dit;
  const auto tokens = static_cast<double>(plan.layout.tokens());
  const auto heads = static_cast<double>(dit.heads);
  const auto others = static_cast<double>(plan.request.sequence - 1);
  const double row = static_cast<double>(dit.head_dim()) * activation_bytes;
  const double out = share.tokens * (heads - share.heads) * row;    // own tokens to the other heads' ranks
  const double back = (tokens - share.tokens) * share.heads * row;  // own heads to the other tokens' ranks
  const bool routed = has_routers(dit.attention);
  const auto layers = static_cast<double>(dit.layers);
  // Gathering passes every rank's rows on, once for each other rank.
  const double routing = routed ? others * share.most_tokens * (kGroupId + kFloat) : 0;
  const double prediction = others * share.most_tokens * 4 * static_cast<double>(dit.out_channels) * kFloat;
  const double routing_gradient = routed ? (tokens - share.tokens) * kFloat : 0;
  rank.sent_again = layers * (3 * out + back + routing);  // q, k and v go out, the output comes back
  rank.sent_forward = rank.sent_again + prediction;
  rank.sent_backward = layers * (3 * back + out + routing_gradient);
}

}  // namespace

ProcessCosts process_costs(const FilmPlan& plan) {
  const PlanRequest& request = plan.request;
  const DitConfig& dit = request.model.dit;
  MOGA_CHECK(request.sequence >= 1 && request.processes % request.sequence == 0,
             "{} processes cannot be split into groups of {} that share a film; choose a divisor",
             request.processes, request.sequence);
  MOGA_CHECK(plan.layout.tokens() >= request.sequence,
             "a film of {} tokens cannot be split over {} processes; use fewer, or a longer film",
             plan.layout.tokens(), request.sequence);
  ProcessCosts costs;
  costs.processes = request.processes;
  costs.sequence = request.sequence;
  const auto tokens_of = even_counts(plan.layout.tokens(), request.sequence);
  const auto heads_of = even_counts(dit.heads, request.sequence);
  const double bytes = request.precision == Precision::kBf16 ? 2 : 4;
  const double global = request.film_wide_text ? 1 : 0;
  double sum = 0;
  double most = 0;
  for (size_t r = 0; r < tokens_of.size(); ++r) {
    const Share share = {static_cast<double>(tokens_of[r]), static_cast<double>(heads_of[r]),
                         static_cast<double>(tokens_of[0])};
    RankCosts rank;
    rank.tokens = tokens_of[r];
    rank.heads = heads_of[r];
    rank.flops.attention = plan.moga.attention * share.heads / static_cast<double>(dit.heads);
    rank.flops.router = router_flops(dit, share.tokens);
    rank.flops.dense =
        dit_dense_flops(dit, share.tokens, static_cast<double>(plan.layout.shots()) + global, 1 + global);
    count_sent(plan, share, bytes, rank);
    sum += rank.flops.total();
    most = std::max(most, rank.flops.total());
    costs.ranks.push_back(rank);
  }
  costs.balance = sum / static_cast<double>(request.sequence) / most;
  costs.speedup = plan.moga.total() / most;

  const auto parameters = static_cast<double>(plan.parameters_dit);
  const auto processes = static_cast<double>(request.processes);
  const auto width = static_cast<double>(dit.dim);
  const auto hidden = static_cast<double>(dit.ffn_dim);
  const auto tokens = static_cast<double>(tokens_of[0]);
  const double attended =  // tokens, in widths: rank 0 has the most of both
      static_cast<double>(plan.layout.tokens() * heads_of[0]) / static_cast<double>(dit.heads);
  const StepMemory step = training_step_memory(
      dit, request.precision,
      {tokens, attended,
       (static_cast<double>(plan.layout.shots()) + global) * static_cast<double>(dit.text_len)});
  // Values and gradients of all; of the share values, gradients, two moments and the moving average.
  costs.weights_train = kFloat * parameters * (2 + 5 / processes);
  costs.activations_train = step.whole;
  costs.activations_train_checkpointed = step.recomputed;
  // As in count_memory(); while heads are exchanged, seven of its rows beside q, k and v packed, received and
  // put together.
  const double attending = request.sequence == 1 ? 9 * tokens : 10 * tokens + 6 * attended;
  costs.activations_generate = kFloat * std::max(width * attending, (4 * width + hidden) * tokens);
  costs.generate = plan.memory.weights_dit + costs.activations_generate;
  costs.sent_gradients = 2 * kFloat * parameters * (processes - 1) / processes;
  return costs;
}

}  // namespace moga
