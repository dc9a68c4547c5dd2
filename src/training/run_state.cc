#include "training/run_state.h"

#include "base/error.h"
#include "base/log.h"

namespace moga {

namespace {

// Everything that a run's bits depend on.
nlohmann::ordered_json resume_key(TrainConfig config) {
  const TrainConfig defaults;
  config.checkpoint_every = defaults.checkpoint_every;
  config.keep_checkpoints = defaults.keep_checkpoints;
  config.log_every = defaults.log_every;
  config.work = "";  // a run may be moved
  config.cache = "";
  config.validation = defaults.validation;
  config.samples = defaults.samples;
  config.memory_gib = defaults.memory_gib;
  return config_to_json(config);
}

// "seed: 1 there, 2 here; ..." for the first few keys.
std::string differences(const nlohmann::ordered_json& there, const nlohmann::ordered_json& here) {
  constexpr size_t kShown = 4;
  std::vector<std::string> found;
  const auto old_keys = there.flatten();
  const auto new_keys = here.flatten();
  for (const auto& [key, value] : new_keys.items()) {
    const auto old = old_keys.find(key);
    if (old == old_keys.end() || *old != value) {
      found.push_back(fmt::format("{}: {} there, {} here", key.substr(1),
                                  old == old_keys.end() ? "none" : old->dump(), value.dump()));
    }
  }
  for (const auto& [key, value] : old_keys.items()) {
    if (!new_keys.contains(key)) {
      found.push_back(fmt::format("{}: {} there, none here", key.substr(1), value.dump()));
    }
  }
  const size_t more = found.size() > kShown ? found.size() - kShown : 0;
  found.resize(found.size() - more);
  return fmt::format("{}{}", fmt::join(found, "; "), more > 0 ? fmt::format("; and {} more", more) : "");
}

int64_t process_count(const RunState& state) {
  return state.ranks ? state.ranks->size() : 1;
}

void copy_named(const RunCheckpoint& checkpoint, const std::string& set, const std::string& prefix,
                const std::map<std::string, torch::Tensor>& targets) {
  const auto found = checkpoint.sets.find(set);
  for (const auto& [name, target] : targets) {
    const auto tensor = found == checkpoint.sets.end()
                            ? std::map<std::string, torch::Tensor>::const_iterator()
                            : found->second.find(prefix + name);
    MOGA_CHECK(found != checkpoint.sets.end() && tensor != found->second.end() &&
                   tensor->second.sizes() == target.sizes(),
               "{} is of another model: it has no {}{} of [{}] in {}.safetensors", checkpoint.folder.string(),
               prefix, name, fmt::join(target.sizes(), ", "), set);
    target.copy_(tensor->second);
  }
}

}  // namespace

RunState start_state(const TrainConfig& config, FlatParameters& flat, std::shared_ptr<Communicator> ranks) {
  OptimizerSettings settings;
  settings.beta2 = config.beta2;
  settings.weight_decay = config.weight_decay;
  settings.average_decay = config.ema;
  if (ranks) {
    ranks->broadcast(flat.values().detach(), 0, "weights");
  }
  auto shares = std::make_unique<ShardedParameters>(flat.values(), flat.parameters(), ranks);
  Optimizer optimizer(shares->share(), settings);
  return {flat, std::move(ranks), std::move(shares), std::move(optimizer),
          StepGuard({config.spike_factor, config.max_skipped})};
}

std::optional<RunCheckpoint> to_checkpoint(const TrainConfig& config, const RunState& state) {
  OptimizerState whole = state.optimizer.state();
  for (torch::Tensor* tensor : {&whole.average, &whole.first_moment, &whole.second_moment}) {
    *tensor = state.shares->gather(*tensor);
  }
  if (!whole.average.defined()) {
    return std::nullopt;
  }
  RunCheckpoint checkpoint;
  checkpoint.step = state.step;
  checkpoint.sets["weights"] = state.flat.named(state.flat.values().detach());
  checkpoint.sets["average"] = state.flat.named(whole.average);
  for (const auto& [prefix, moment] :
       {std::pair("first.", whole.first_moment), std::pair("second.", whole.second_moment)}) {
    for (const auto& [name, tensor] : state.flat.named(moment)) {
      checkpoint.sets["optimizer"][prefix + name] = tensor;
    }
  }
  checkpoint.state = {{"optimizer_steps", whole.steps},
                      {"guard", state.guard.state()},
                      {"processes", process_count(state)},
                      {"config", resume_key(config)}};
  return checkpoint;
}

// What the first rank puts into the state that all share.
static OptimizerState read_first(const TrainConfig& config, const RunCheckpoint& checkpoint,
                                 bool accept_changes, RunState& state) {
  const std::string changed = differences(checkpoint.state["config"], resume_key(config));
  MOGA_CHECK(
      changed.empty() || accept_changes,
      "{} was made with other settings ({}); go on with its own, or allow it with --accept-changes, or "
      "remove it to start anew",
      checkpoint.folder.string(), changed);
  if (!changed.empty()) {
    spdlog::warn("going on with other settings, so not as one run would have: {}", changed);
  }
  if (const int64_t before = checkpoint.state.value("processes", int64_t{1});
      before != process_count(state)) {
    spdlog::warn("{} was made by {} process{}, {} go on: the same but for rounding",
                 checkpoint.folder.string(), before, before == 1 ? "" : "es", process_count(state));
  }
  OptimizerState whole;
  const auto like_weights = torch::TensorOptions()
                                .dtype(torch::kFloat32)
                                .device(state.ranks ? torch::kCPU : state.flat.values().device());
  for (torch::Tensor* tensor : {&whole.average, &whole.first_moment, &whole.second_moment}) {
    *tensor = torch::empty({state.flat.values().numel()}, like_weights);
  }
  copy_named(checkpoint, "weights", "", state.flat.named(state.flat.values().detach()));
  copy_named(checkpoint, "average", "", state.flat.named(whole.average));
  copy_named(checkpoint, "optimizer", "first.", state.flat.named(whole.first_moment));
  copy_named(checkpoint, "optimizer", "second.", state.flat.named(whole.second_moment));
  return whole;
}

void from_checkpoint(const TrainConfig& config, const std::optional<RunCheckpoint>& checkpoint,
                     bool accept_changes, RunState& state) {
  const torch::NoGradGuard no_grad;
  OptimizerState moments;
  nlohmann::ordered_json info;
  if (checkpoint) {
    moments = read_first(config, *checkpoint, accept_changes, state);
    info = {{"step", checkpoint->step},
            {"optimizer_steps", checkpoint->state["optimizer_steps"]},
            {"guard", checkpoint->state["guard"]}};
  }
  if (state.ranks) {
    info = nlohmann::ordered_json::parse(state.ranks->broadcast_text(info.dump(), 0, "checkpoint"));
    state.ranks->broadcast(state.flat.values().detach(), 0, "weights");
    state.shares->take_values();
  }
  for (torch::Tensor* tensor : {&moments.average, &moments.first_moment, &moments.second_moment}) {
    *tensor = state.shares->scatter(*tensor);
  }
  moments.steps = info["optimizer_steps"];
  state.optimizer.set_state(moments);
  state.guard.set_state(info["guard"]);
  state.step = info["step"];
}

}  // namespace moga
