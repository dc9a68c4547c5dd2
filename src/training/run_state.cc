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

RunState start_state(const TrainConfig& config, FlatParameters& flat) {
  OptimizerSettings settings;
  settings.beta2 = config.beta2;
  settings.weight_decay = config.weight_decay;
  settings.average_decay = config.ema;
  return {flat, Optimizer(flat.values(), settings), StepGuard({config.spike_factor, config.max_skipped})};
}

RunCheckpoint to_checkpoint(const TrainConfig& config, const RunState& state) {
  const OptimizerState moments = state.optimizer.state();
  RunCheckpoint checkpoint;
  checkpoint.step = state.step;
  checkpoint.sets["weights"] = state.flat.named(state.flat.values().detach());
  checkpoint.sets["average"] = state.flat.named(moments.average);
  for (const auto& [prefix, moment] :
       {std::pair("first.", moments.first_moment), std::pair("second.", moments.second_moment)}) {
    for (const auto& [name, tensor] : state.flat.named(moment)) {
      checkpoint.sets["optimizer"][prefix + name] = tensor;
    }
  }
  checkpoint.state = {
      {"optimizer_steps", moments.steps}, {"guard", state.guard.state()}, {"config", resume_key(config)}};
  return checkpoint;
}

void from_checkpoint(const TrainConfig& config, const RunCheckpoint& checkpoint, bool accept_changes,
                     RunState& state) {
  const std::string changed = differences(checkpoint.state["config"], resume_key(config));
  MOGA_CHECK(
      changed.empty() || accept_changes,
      "{} was made with other settings ({}); go on with its own, or allow it with --accept-changes, or "
      "remove it to start anew",
      checkpoint.folder.string(), changed);
  if (!changed.empty()) {
    spdlog::warn("going on with other settings, so not as one run would have: {}", changed);
  }
  const torch::NoGradGuard no_grad;
  OptimizerState moments = state.optimizer.state();
  copy_named(checkpoint, "weights", "", state.flat.named(state.flat.values().detach()));
  copy_named(checkpoint, "average", "", state.flat.named(moments.average));
  copy_named(checkpoint, "optimizer", "first.", state.flat.named(moments.first_moment));
  copy_named(checkpoint, "optimizer", "second.", state.flat.named(moments.second_moment));
  moments.steps = checkpoint.state["optimizer_steps"];
  state.optimizer.set_state(moments);
  state.guard.set_state(checkpoint.state["guard"]);
  state.step = checkpoint.step;
}

}  // namespace moga
