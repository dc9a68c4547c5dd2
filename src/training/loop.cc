#include "training/loop.h"

#include <chrono>
#include <cmath>

#include "attention/torch_compat.h"
#include "base/error.h"
#include "base/log.h"
#include "base/progress.h"
#include "training/checkpoints.h"
#include "training/metrics.h"
#include "training/run_state.h"
#include "training/step_replay.h"
#include "training/stop_signal.h"

namespace moga {

namespace {

nlohmann::ordered_json to_json(const torch::Tensor& value) {
  const torch::Tensor plain = value.detach().to(torch::kCPU, torch::kFloat64);
  if (plain.dim() == 0) {
    return plain.item<double>();
  }
  auto list = nlohmann::ordered_json::array();
  for (const torch::Tensor& row : plain.unbind(0)) {
    list.push_back(to_json(row));
  }
  return list;
}

class TrainingRun {
 public:
  TrainingRun(const TrainConfig& config, FlatParameters& flat, const TrainingStep& step,
              const RunOptions& options)
      : config_(config),
        step_(step),
        options_(options),
        total_(total_steps(config)),
        checkpoints_(config.work, config.keep_checkpoints),
        state_(start_state(config, flat)),
        first_step_(resume()),
        metrics_(config.work, first_step_),
        replay_(flat.values().device(), config.cuda_graph),
        progress_("train " + enum_name(config.kind), total_, "step", first_step_) {}

  TrainEnd run() {
    int64_t stage_begin = 0;
    for (size_t s = 0; s < config_.stages.size(); ++s) {
      const StageConfig& stage = config_.stages[s];
      const int64_t stage_end = stage_begin + stage.steps;
      while (state_.step < stage_end) {
        if (stop_.requested()) {
          checkpoints_.save(to_checkpoint(config_, state_));
          progress_.finish();
          spdlog::info("stopped at step {} of {}; run the same command to go on", state_.step, total_);
          return TrainEnd::kInterrupted;
        }
        if (state_.step == stage_begin) {
          state_.guard.forget();
        }
        const bool more = state_.step + 1 < stage_end;
        one_step({stage,
                  static_cast<int64_t>(s),
                  state_.step,
                  step_seed(config_.seed, state_.step),
                  {0, stage.accumulate}},
                 learning_rate(stage, state_.step - stage_begin), more);
      }
      stage_begin = stage_end;
    }
    checkpoints_.save(to_checkpoint(config_, state_));
    const torch::NoGradGuard guard;
    state_.flat.values().copy_(state_.optimizer.average());
    return TrainEnd::kFinished;
  }

 private:
  // The step to go on at.
  int64_t resume() {
    if (const auto checkpoint = checkpoints_.load_newest()) {
      from_checkpoint(config_, *checkpoint, options_.accept_changes, state_);
      spdlog::info("continuing {} at step {}", checkpoint->folder.string(), state_.step);
    }
    return state_.step;
  }

  StepInputs draw(const StepContext& context) const {
    torch::manual_seed(static_cast<int64_t>(context.seed >> 1U));
    return step_.inputs(context);
  }

  // Loss and gradient of the whole batch; and, if there is a next step, its inputs while a GPU computes.
  StepResult compute(StepContext context, bool more) {
    StepResult sum;
    for (context.part.index = 0; context.part.index < context.part.count; ++context.part.index) {
      const StepInputs inputs =
          ahead_step_ == context.step && context.part.index == 0 ? std::move(ahead_) : draw(context);
      ahead_step_ = -1;
      StepResult part =
          replay_.run(context.stage_index, context.part.count, inputs, [&](const StepInputs& given) {
            const compat::Autocast autocast(state_.flat.values().device(),
                                            config_.precision == TrainPrecision::kBfloat16
                                                ? std::optional(torch::kBFloat16)
                                                : std::nullopt);
            return step_.loss(context, given);
          });
      if (context.part.count == 1) {
        sum = std::move(part);
        break;
      }
      add_part(part, context.part, sum);
    }
    if (more) {
      ahead_step_ = context.step + 1;
      ahead_ = draw({context.stage,
                     context.stage_index,
                     ahead_step_,
                     step_seed(config_.seed, ahead_step_),
                     {0, context.part.count}});
    }
    return sum;
  }

  // Means over the parts.
  static void add_part(const StepResult& part, const BatchPart& place, StepResult& sum) {
    if (place.index == 0) {
      sum.loss = part.loss / place.count;
      for (const auto& [name, value] : part.metrics) {
        sum.metrics.emplace_back(name, value / place.count);
      }
      return;
    }
    sum.loss += part.loss / place.count;
    for (size_t i = 0; i < part.metrics.size(); ++i) {
      sum.metrics[i].second += part.metrics[i].second / place.count;
    }
  }

  void one_step(const StepContext& context, double rate, bool more) {
    const auto begin = std::chrono::steady_clock::now();
    state_.flat.zero_gradients();
    const StepResult result = compute(context, more);
    const torch::Tensor norm = state_.flat.clip_gradients(config_.clip_norm);
    // The only wait for the GPU in a step.
    const torch::Tensor both = torch::stack({result.loss.detach(), norm}).to(torch::kCPU, torch::kFloat64);
    const double loss = both[0].item<double>();
    const double gradient_norm = both[1].item<double>();
    const std::string refused = state_.guard.judge(loss, gradient_norm);
    if (refused.empty()) {
      state_.optimizer.step(rate);
    }
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    films_ += context.stage.batch;
    ++state_.step;

    const bool last = state_.step == total_;
    nlohmann::ordered_json line = {{"step", context.step}, {"stage", context.stage.name}};
    if (!refused.empty()) {
      line["skipped"] = refused;
      spdlog::warn("step {} is skipped: {}", context.step, refused);
    }
    std::string note;
    if (context.step % config_.log_every == 0 || last || !refused.empty()) {
      line.update({{"loss", loss},
                   {"gradient_norm", gradient_norm},
                   {"learning_rate", rate},
                   {"samples_per_second", static_cast<double>(films_) / std::max(1e-9, seconds_)}});
      note = fmt::format("{}: loss {:.4f}", context.stage.name, loss);
      for (const auto& [name, value] : result.metrics) {
        line[name] = to_json(value);
        note += value.dim() == 0 ? fmt::format(", {} {:.3g}", name, line[name].get<double>()) : "";
      }
      note += fmt::format(", {:.3g} samples/s", line["samples_per_second"].get<double>());
      metrics_.write(line);
      films_ = 0;
      seconds_ = 0;
    }
    progress_.advance(1, note);
    stop_if_too_many(refused);
    after_step(context.step, last);
  }

  void stop_if_too_many(const std::string& why) {
    if (!state_.guard.too_many()) {
      return;
    }
    checkpoints_.save(to_checkpoint(config_, state_));
    progress_.finish();
    fail(
        "{} steps in a row were skipped (the last one: {}); the weights before them are in {}. Lower the "
        "learning rate, "
        "or look at the films",
        state_.guard.skipped_in_a_row(), why, checkpoints_.folder(state_.step).string());
  }

  // Tasks and checkpoint.
  void after_step(int64_t step, bool last) {
    for (const PeriodicTask& task : options_.tasks) {
      if (task.every > 0 && (state_.step % task.every == 0 || last)) {
        const OtherValues averaged(state_.flat, state_.optimizer.average());
        nlohmann::ordered_json line = {{"step", step}};
        line.update(task.run(state_.step));
        metrics_.write(line);
      }
    }
    if (state_.step % config_.checkpoint_every == 0 && !last) {
      try {
        checkpoints_.save(to_checkpoint(config_, state_));
      } catch (const Error& error) {
        const auto steps = checkpoints_.steps();
        spdlog::warn(
            "the checkpoint of step {} could not be written ({}); training goes on, {}", state_.step,
            error.what(),
            steps.empty() ? "without any" : fmt::format("that of step {} is the newest", steps.back()));
      }
    }
  }

  const TrainConfig& config_;
  const TrainingStep& step_;
  const RunOptions& options_;
  const StopSignal stop_;
  int64_t total_;
  Checkpoints checkpoints_;
  RunState state_;
  int64_t first_step_;
  Metrics metrics_;
  StepReplay replay_;
  Progress progress_;
  StepInputs ahead_;  // of ahead_step_
  int64_t ahead_step_ = -1;
  int64_t films_ = 0;  // since the last line of metrics
  double seconds_ = 0;
};

}  // namespace

double learning_rate(const StageConfig& stage, int64_t step_in_stage) {
  if (step_in_stage < stage.warmup) {
    return stage.learning_rate * static_cast<double>(step_in_stage + 1) / static_cast<double>(stage.warmup);
  }
  const double done =
      static_cast<double>(step_in_stage) / static_cast<double>(std::max<int64_t>(1, stage.steps));
  return stage.learning_rate *
         (stage.final_rate + (1 - stage.final_rate) * 0.5 * (1 + std::cos(M_PI * done)));
}

TrainEnd run_training(const TrainConfig& config, FlatParameters& flat, const TrainingStep& step,
                      const RunOptions& options) {
  return TrainingRun(config, flat, step, options).run();
}

}  // namespace moga
