#include "training/dit_loss.h"

#include "diffusion/flow.h"

namespace moga {

namespace {

torch::Tensor pairs_of(const Groups& groups) {
  return (groups.q_offsets.diff() * groups.kv_offsets.diff()).sum().to(torch::kFloat32);
}

}  // namespace

torch::Tensor caption_rows(CaptionSource& captions, const DitBatch& batch) {
  return captions.embed(batch.text).unflatten(0, {batch.plan.batch, batch.plan.captions});
}

torch::Tensor flow_loss(WanDit& dit, const torch::Tensor& text_BSRT, const DitBatch& batch, DitTrace* trace) {
  const FlowPair pair = make_flow_pair(batch.clean_BZFHW, batch.noise_BZFHW, batch.levels_B);
  const torch::Tensor predicted =
      dit->forward(pair.noisy, batch.levels_B * 1000, text_BSRT, batch.plan, trace);
  return (predicted - pair.target).square().mean();
}

torch::Tensor attention_share(const DitPlan& plan, const Routing* routing) {
  const auto tokens = static_cast<double>(plan.layout.tokens());
  const double all = tokens * tokens * static_cast<double>(plan.batch);
  const torch::Device device = plan.rope.cos_LP.device();
  torch::Tensor pairs = torch::zeros({}, torch::TensorOptions().device(device));
  for (const Groups* groups : {&plan.visual.windows, &plan.visual.frames, &plan.visual.full}) {
    if (groups->q_index.defined()) {
      pairs = pairs + pairs_of(*groups).to(device);
    }
  }
  if (routing != nullptr) {
    const torch::Tensor ids_BL = routing->group_ids_L.view({plan.batch, -1});
    const torch::Tensor ones_BL = torch::ones(ids_BL.sizes(), pairs.options());
    torch::Tensor counts_BM = torch::zeros({plan.batch, routing->probs_LM.size(1)}, pairs.options())
                                  .scatter_add(1, ids_BL, ones_BL);
    if (plan.visual.sequence != nullptr) {  // of all tokens of the films
      counts_BM = plan.visual.sequence->sum(counts_BM);
    }
    pairs = pairs + counts_BM.square().sum();
  }
  return pairs / all;
}

// The share of each group in each layer, [layers, M], over the tokens of all processes.
static torch::Tensor group_shares(const std::vector<Routing>& layers, Communicator* world) {
  std::vector<torch::Tensor> shares;
  for (const Routing& routing : layers) {
    shares.push_back(group_occupancy(routing));
  }
  torch::Tensor shares_lM = torch::stack(shares);
  if (world != nullptr) {
    shares_lM *= static_cast<double>(layers[0].group_ids_L.numel());  // counts
    world->all_reduce(shares_lM, "group counts");
    shares_lM /= shares_lM.sum(1, /*keepdim=*/true);
  }
  return shares_lM;
}

StepResult dit_loss(const TrainConfig& config, WanDit& dit, const torch::Tensor& text_BSRT,
                    const DitBatch& batch, Communicator* world) {
  DitTrace trace;
  const torch::Tensor flow = flow_loss(dit, text_BSRT, batch, &trace);
  StepResult result{flow, {{"flow", flow.detach()}}};
  if (trace.routing.empty()) {
    return result;
  }
  torch::Tensor balance = torch::zeros({}, flow.options());
  torch::Tensor share = torch::zeros({}, flow.options());
  const torch::Tensor occupancy = group_shares(trace.routing, world);
  const int64_t tokens = batch.plan.batch * batch.plan.layout.tokens();
  for (size_t layer = 0; layer < trace.routing.size(); ++layer) {
    const Routing& routing = trace.routing[layer];
    balance = balance +
              balance_loss_part(routing, config.balance_form, occupancy[static_cast<int64_t>(layer)], tokens);
    share = share + attention_share(batch.plan, &routing);
  }
  if (batch.plan.visual.sequence != nullptr) {
    balance = batch.plan.visual.sequence->sum(balance);
  }
  result.loss = flow + config.balance_weight * balance;
  result.metrics.insert(result.metrics.end(),
                        {{"balance", balance.detach()},
                         {"sparsity", 1 - share / static_cast<int64_t>(trace.routing.size())},
                         {"occupancy_least", occupancy.min()},
                         {"occupancy_most", occupancy.max()},
                         {"occupancy", occupancy}});
  return result;
}

nlohmann::ordered_json measure_flow(WanDit& dit, CaptionSource& captions, DitData& data,
                                    const ValidationConfig& validation) {
  const torch::NoGradGuard guard;
  const size_t films = std::min(data.size(), static_cast<size_t>(validation.films));
  auto found = nlohmann::ordered_json::object();
  for (const double level : validation.levels) {
    double sum = 0;
    for (size_t film = 0; film < films; ++film) {
      const DitBatch batch = data.film(film, level, film);
      sum += flow_loss(dit, caption_rows(captions, batch), batch, nullptr).item<double>();
    }
    found[fmt::format("{:g}", level)] = sum / static_cast<double>(films);
  }
  return found;
}

}  // namespace moga
