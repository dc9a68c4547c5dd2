#include "training/loop.h"

#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <random>

#include "attention/torch_compat.h"
#include "base/atomic_file.h"
#include "base/error.h"
#include "base/log.h"
#include "base/progress.h"
#include "io/safetensors.h"
#include "training/step_replay.h"

namespace moga {

namespace fs = std::filesystem;

namespace {

volatile std::sig_atomic_t stop_requested = 0;

// Turns SIGINT and SIGTERM into a request while it lives.
class StopOnSignal {
 public:
  StopOnSignal() {
    stop_requested = 0;
    previous_int_ = std::signal(SIGINT, [](int) { stop_requested = 1; });
    previous_term_ = std::signal(SIGTERM, [](int) { stop_requested = 1; });
  }
  ~StopOnSignal() {
    std::signal(SIGINT, previous_int_);
    std::signal(SIGTERM, previous_term_);
  }
  StopOnSignal(const StopOnSignal&) = delete;
  StopOnSignal& operator=(const StopOnSignal&) = delete;

 private:
  void (*previous_int_)(int);
  void (*previous_term_)(int);
};

uint64_t mix(uint64_t a, uint64_t b) {
  uint64_t z = a + 0x9E3779B97F4A7C15ULL * (b + 1);  // splitmix64
  z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27U)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31U);
}

struct TrainState {
  FlatParameters& flat;
  torch::Tensor average;
  torch::optim::AdamW optimizer;
  int64_t step = 0;
};

// What must be equal for a checkpoint to be continued: everything but how often things are written.
std::string resume_key(const TrainConfig& config) {
  TrainConfig key = config;
  key.checkpoint_every = 0;
  key.log_every = 0;
  return config_to_json(key).dump();
}

void save_checkpoint(const TrainConfig& config, const TrainState& state) {
  AtomicFolder folder(fs::path(config.work) / "checkpoint");
  std::map<std::string, torch::Tensor> tensors = {{"values", state.flat.values().detach()},
                                                  {"average", state.average}};
  for (const auto& entry : state.optimizer.state()) {  // one: all parameters are one flat tensor
    const auto& moments = static_cast<const torch::optim::AdamWParamState&>(*entry.second);
    tensors["first_moment"] = moments.exp_avg();
    tensors["second_moment"] = moments.exp_avg_sq();
  }
  write_safetensors(folder.path() / "state.safetensors", tensors);
  const nlohmann::ordered_json info = {{"step", state.step}, {"config", resume_key(config)}};
  std::ofstream(folder.path() / "state.json") << info.dump(1) << '\n';
  folder.commit();
}

void load_checkpoint(const TrainConfig& config, TrainState& state) {
  const fs::path folder = fs::path(config.work) / "checkpoint";
  recover_folder(folder);
  if (!fs::exists(folder / "state.json")) {
    return;
  }
  const auto info = nlohmann::json::parse(read_file(folder / "state.json"), nullptr, false);
  MOGA_CHECK(info.is_object() && info.contains("step") && info.contains("config"), "{} is damaged; remove {}",
             (folder / "state.json").string(), folder.string());
  MOGA_CHECK(info["config"] == resume_key(config),
             "{} was made with other settings; continue it with its own config, or remove it to start anew",
             folder.string());
  const SafetensorsFile tensors(folder / "state.safetensors");
  const torch::Tensor values = tensors.read("values");
  MOGA_CHECK(values.numel() == state.flat.values().numel(), "{} has {} parameters, the model has {}",
             folder.string(), values.numel(), state.flat.values().numel());
  state.flat.values().copy_(values);
  const torch::Device device = state.flat.values().device();
  state.average.copy_(tensors.read("average"));
  state.step = info["step"];
  auto moments = std::make_unique<torch::optim::AdamWParamState>();
  moments->step(state.step);
  moments->exp_avg(tensors.read("first_moment").to(device));
  moments->exp_avg_sq(tensors.read("second_moment").to(device));
  state.optimizer.state()[compat::optimizer_key(state.flat.values())] = std::move(moments);
  spdlog::info("continuing {} at step {}", folder.string(), state.step);
}

double learning_rate(const StageConfig& stage, int64_t step_in_stage) {
  if (step_in_stage < stage.warmup) {
    return stage.learning_rate * static_cast<double>(step_in_stage + 1) / static_cast<double>(stage.warmup);
  }
  const double done =
      static_cast<double>(step_in_stage) / static_cast<double>(std::max<int64_t>(1, stage.steps));
  return stage.learning_rate *
         (stage.final_rate + (1 - stage.final_rate) * 0.5 * (1 + std::cos(M_PI * done)));
}

double scalar(const torch::Tensor& value) {
  return value.detach().to(torch::kCPU, torch::kFloat64).item<double>();
}

// Removes lines of steps that a killed run logged after its last checkpoint, so that none appears twice.
void trim_metrics(const fs::path& file, int64_t step) {
  if (!fs::exists(file)) {
    return;
  }
  std::string kept;
  for (const std::string& line : split(read_file(file), '\n')) {
    const auto entry = nlohmann::json::parse(line, nullptr, false);
    if (entry.is_object() && entry.value("step", step) < step) {
      kept += line + "\n";
    }
  }
  write_file_atomic(file, kept);
}

}  // namespace

uint64_t step_seed(uint64_t run_seed, int64_t step) {
  return mix(run_seed, static_cast<uint64_t>(step));
}

std::vector<int64_t> batch_indices(uint64_t seed, int64_t step, int64_t batch, int64_t films) {
  std::vector<int64_t> indices;
  std::vector<int64_t> order(static_cast<size_t>(films));
  int64_t shuffled_pass = -1;
  for (int64_t i = 0; i < batch; ++i) {
    const int64_t position = step * batch + i;
    if (const int64_t pass = position / films; pass != shuffled_pass) {
      shuffled_pass = pass;
      for (int64_t j = 0; j < films; ++j) {
        order[static_cast<size_t>(j)] = j;
      }
      uint64_t state = mix(seed, static_cast<uint64_t>(pass));
      for (int64_t j = films - 1; j > 0; --j) {
        state = mix(state, static_cast<uint64_t>(j));
        std::swap(order[static_cast<size_t>(j)], order[state % static_cast<uint64_t>(j + 1)]);
      }
    }
    indices.push_back(order[static_cast<size_t>(position % films)]);
  }
  return indices;
}

TrainEnd run_training(const TrainConfig& config, FlatParameters& flat, const TrainingStep& step) {
  MOGA_CHECK(!config.stages.empty(), "a training run needs at least one stage");
  int64_t total = 0;
  for (const StageConfig& stage : config.stages) {
    MOGA_CHECK(stage.steps >= 0 && stage.batch >= 1, "stage '{}': steps and batch must be positive",
               stage.name);
    total += stage.steps;
  }
  torch::optim::AdamWOptions options(config.stages[0].learning_rate);
  options.weight_decay(config.weight_decay).betas({0.9, config.beta2});
  TrainState state{flat, flat.values().detach().clone(), torch::optim::AdamW({flat.values()}, options)};
  load_checkpoint(config, state);
  const fs::path metrics_file = fs::path(config.work) / "metrics.jsonl";
  fs::create_directories(config.work);
  trim_metrics(metrics_file, state.step);
  std::ofstream metrics(metrics_file, std::ios::app);
  MOGA_CHECK(metrics.good(), "cannot write {}", metrics_file.string());

  StepReplay replay(flat.values().device(), config.cuda_graph);
  const StopOnSignal stop;
  Progress progress("train " + enum_name(config.kind), total, "step", state.step);
  int64_t stage_begin = 0;
  int64_t films_seen = 0;
  for (size_t s = 0; s < config.stages.size(); ++s) {
    const StageConfig& stage = config.stages[s];
    for (; state.step < stage_begin + stage.steps; ++state.step) {
      if (stop_requested != 0) {
        save_checkpoint(config, state);
        progress.finish();
        spdlog::info("stopped at step {} of {}; run the same command to go on", state.step, total);
        return TrainEnd::kInterrupted;
      }
      const bool last = state.step + 1 == total;
      const bool logged = state.step % config.log_every == 0 || last;
      const uint64_t seed = step_seed(config.seed, state.step);
      torch::manual_seed(static_cast<int64_t>(seed >> 1U));
      const double rate = learning_rate(stage, state.step - stage_begin);
      static_cast<torch::optim::AdamWOptions&>(state.optimizer.param_groups()[0].options()).lr(rate);
      flat.zero_gradients();
      const StepContext context = {stage, static_cast<int64_t>(s), state.step, seed};
      const StepResult result = replay.run(
          context.stage_index, step.inputs(context), [&](const std::vector<torch::Tensor>& inputs) {
            const compat::Autocast autocast(flat.values().device(),
                                            config.precision == TrainPrecision::kBfloat16
                                                ? std::optional(torch::kBFloat16)
                                                : std::nullopt);
            return step.loss(context, inputs);
          });
      const torch::Tensor norm = flat.clip_gradients(config.clip_norm);
      state.optimizer.step();
      const double warm = (1.0 + static_cast<double>(state.step)) / (10.0 + static_cast<double>(state.step));
      state.average.lerp_(flat.values().detach(), 1 - std::min(config.ema, warm));
      films_seen += stage.batch;

      if (logged) {
        nlohmann::ordered_json line = {
            {"step", state.step},
            {"stage", stage.name},
            {"loss", scalar(result.loss)},
            {"gradient_norm", scalar(norm)},
            {"learning_rate", rate},
            {"samples_per_second",
             static_cast<double>(films_seen) / std::max(1e-9, progress.seconds_elapsed())}};
        std::string note = fmt::format("{}: loss {:.4f}", stage.name, scalar(result.loss));
        for (const auto& [name, value] : result.metrics) {
          line[name] = scalar(value);
          note += fmt::format(", {} {:.3g}", name, scalar(value));
        }
        MOGA_CHECK(std::isfinite(scalar(result.loss)),
                   "the loss is not finite at step {}; lower the learning rate", state.step);
        metrics << line.dump() << '\n' << std::flush;
        progress.advance(1,
                         note + fmt::format(", {:.3g} samples/s", line["samples_per_second"].get<double>()));
      } else {
        progress.advance(1);
      }
      if ((state.step + 1) % config.checkpoint_every == 0 && !last) {
        const int64_t done = state.step++;
        save_checkpoint(config, state);
        state.step = done;
      }
    }
    stage_begin += stage.steps;
  }
  save_checkpoint(config, state);
  const torch::NoGradGuard guard;
  flat.values().copy_(state.average);
  return TrainEnd::kFinished;
}

}  // namespace moga
