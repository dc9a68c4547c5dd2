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

// Into a CUDA graph goes only what never waits for the device: not what processes send to each other, nor
// attention over groups in float32, whose batches the host makes.
bool can_record(const TrainConfig& config) {
  return config.kind != TrainKind::kDit || config.precision == TrainPrecision::kBfloat16;
}

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

class TrainingRun {
 public:
  TrainingRun(const TrainConfig& config, FlatParameters& flat, const TrainingStep& step,
              const RunOptions& options)
      : config_(config),
        step_(step),
        options_(options),
        total_(total_steps(config)),
        world_(options.mesh ? options.mesh->world : nullptr),
        state_(start_state(config, flat, world_)),
        first_step_(resume()),
        replay_(flat.values().device(), config.cuda_graph && world_ == nullptr && can_record(config)),
        progress_("train " + enum_name(config.kind), total_, "step", first_step_) {}

  TrainEnd run() {
    int64_t stage_begin = 0;
    for (size_t s = 0; s < config_.stages.size(); ++s) {
      const StageConfig& stage = config_.stages[s];
      const int64_t stage_end = stage_begin + stage.steps;
      while (state_.step < stage_end) {
        if (world_ ? stop_agreed_ : stop_.requested()) {
          save_checkpoint();
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
                  {data_rank(), stage.accumulate * data_size()}},
                 learning_rate(stage, state_.step - stage_begin), more);
      }
      stage_begin = stage_end;
    }
    save_checkpoint();
    const torch::NoGradGuard guard;
    state_.shares->share().copy_(state_.optimizer.average());
    state_.shares->publish();
    return TrainEnd::kFinished;
  }

 private:
  bool first() const { return world_ == nullptr || world_->rank() == 0; }
  int64_t data_rank() const { return options_.mesh ? options_.mesh->data_rank : 0; }
  int64_t data_size() const { return options_.mesh ? options_.mesh->data_size : 1; }
  int64_t sequence_size() const { return world_ ? world_->size() / data_size() : 1; }

  // The step to go on at.
  int64_t resume() {
    for (const StageConfig& stage : config_.stages) {
      MOGA_CHECK(
          stage.batch % (stage.accumulate * data_size()) == 0,
          "stage '{}': {} films a step cannot be cut into {} parts for each of {} groups of processes; "
          "change batch, or --sequence-parallel",
          stage.name, stage.batch, stage.accumulate, data_size());
    }
    std::optional<RunCheckpoint> checkpoint;
    if (first()) {
      checkpoints_.emplace(config_.work, config_.keep_checkpoints);
      checkpoint = checkpoints_->load_newest();
    }
    const bool found = world_ ? !world_->broadcast_text(checkpoint ? "found" : "", 0, "checkpoint").empty()
                              : checkpoint.has_value();
    if (found) {
      from_checkpoint(config_, checkpoint, options_.accept_changes, state_);
    }
    if (checkpoint) {
      spdlog::info("continuing {} at step {}", checkpoint->folder.string(), state_.step);
    }
    if (first()) {
      metrics_.emplace(config_.work, state_.step);
    }
    return state_.step;
  }

  void save_checkpoint() {
    if (const auto checkpoint = to_checkpoint(config_, state_)) {
      checkpoints_->save(*checkpoint);
    }
  }

  StepInputs draw(const StepContext& context) {
    const auto begin = std::chrono::steady_clock::now();
    torch::manual_seed(static_cast<int64_t>(context.seed >> 1U));
    StepInputs inputs = step_.inputs(context);
    drawing_ += seconds_since(begin);
    return inputs;
  }

  // Loss and gradient of the whole batch; and, if there is a next step, its inputs while a GPU computes.
  StepResult compute(StepContext context, bool more) {
    StepResult sum;
    const int64_t first_part = context.part.index;
    for (; context.part.index < context.part.count; context.part.index += data_size()) {
      const StepInputs inputs =
          ahead_step_ == context.step && context.part.index == first_part ? std::move(ahead_) : draw(context);
      ahead_step_ = -1;
      if (context.part.index + data_size() >= context.part.count) {
        state_.shares->start_reduction();  // the gradients of the last part complete the sum
      }
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
                     {first_part, context.part.count}});
    }
    state_.shares->finish_reduction();
    return sum;
  }

  // Means over the parts.
  static void add_part(const StepResult& part, const BatchPart& place, StepResult& sum) {
    if (!sum.loss.defined()) {
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

  // The sum over the groups of processes, of which all members have the same value.
  torch::Tensor over_groups(const torch::Tensor& value) const {
    if (world_ == nullptr) {
      return value;
    }
    torch::Tensor sum = value.detach().contiguous().clone();
    world_->all_reduce(sum, "loss");
    return sum / sequence_size();
  }

  // The loss of the whole batch; and whether a process was asked to stop, on which all must agree.
  double agree(double loss) {
    if (world_ == nullptr) {
      return loss;
    }
    torch::Tensor both = torch::tensor({loss, stop_.requested() ? 1.0 : 0.0}, torch::kFloat64);
    world_->all_reduce(both, "loss");
    stop_agreed_ = both[1].item<double>() > 0;
    return both[0].item<double>() / static_cast<double>(sequence_size());
  }

  void one_step(const StepContext& context, double rate, bool more) {
    const auto begin = std::chrono::steady_clock::now();
    state_.flat.zero_gradients();
    const StepResult result = compute(context, more);
    const torch::Tensor norm = state_.shares->clip_gradients(config_.clip_norm);
    // The only wait for the GPU in a step.
    const torch::Tensor both = torch::stack({result.loss.detach(), norm}).to(torch::kCPU, torch::kFloat64);
    const double loss = agree(both[0].item<double>());
    const double gradient_norm = both[1].item<double>();
    const std::string refused = state_.guard.judge(loss, gradient_norm);
    if (refused.empty()) {
      state_.optimizer.step(rate);
      state_.shares->publish();
    }
    seconds_ += seconds_since(begin);
    films_ += context.stage.batch;
    ++steps_;
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
                   {"samples_per_second", static_cast<double>(films_) / std::max(1e-9, seconds_)},
                   {"data_seconds", drawing_ / static_cast<double>(steps_)}});
      note = fmt::format("{}: loss {:.4f}", context.stage.name, loss);
      for (const auto& [name, value] : result.metrics) {
        line[name] = to_json(over_groups(value));
        note += value.dim() == 0 ? fmt::format(", {} {:.3g}", name, line[name].get<double>()) : "";
      }
      note += fmt::format(", {:.3g} samples/s", line["samples_per_second"].get<double>());
      if (metrics_) {
        metrics_->write(line);
      }
      films_ = 0;
      steps_ = 0;
      seconds_ = 0;
      drawing_ = 0;
    }
    progress_.advance(1, note);
    stop_if_too_many(refused);
    after_step(context.step, last);
  }

  void stop_if_too_many(const std::string& why) {
    if (!state_.guard.too_many()) {
      return;
    }
    save_checkpoint();
    progress_.finish();
    fail(
        "{} steps in a row were skipped (the last one: {}); the weights before them are in {}. Lower the "
        "learning rate, "
        "or look at the films",
        state_.guard.skipped_in_a_row(), why,
        checkpoints_ ? checkpoints_->folder(state_.step).string() : config_.work);
  }

  // Tasks and checkpoint.
  void after_step(int64_t step, bool last) {
    for (const PeriodicTask& task : options_.tasks) {
      if (task.every > 0 && (state_.step % task.every == 0 || last)) {
        const torch::Tensor average =
            world_ ? state_.shares->gather(state_.optimizer.average()) : state_.optimizer.average();
        const auto work = [&] {
          const OtherValues averaged(state_.flat, average);
          nlohmann::ordered_json line = {{"step", step}};
          line.update(task.run(state_.step));
          metrics_->write(line);
        };
        world_ ? world_->first_alone(work, "validation and samples") : work();
      }
    }
    if (state_.step % config_.checkpoint_every == 0 && !last) {
      try {
        save_checkpoint();
      } catch (const PeerError&) {
        throw;
      } catch (const Error& error) {
        const auto steps = checkpoints_->steps();
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
  std::shared_ptr<Communicator> world_;     // null: one process
  std::optional<Checkpoints> checkpoints_;  // of the first process
  std::optional<Metrics> metrics_;          // likewise
  RunState state_;
  int64_t first_step_;
  StepReplay replay_;
  Progress progress_;
  StepInputs ahead_;  // of ahead_step_
  int64_t ahead_step_ = -1;
  // Since the last line of metrics.
  int64_t films_ = 0;
  int64_t steps_ = 0;
  double seconds_ = 0;
  double drawing_ = 0;  // seconds for films and noise
  bool stop_agreed_ = false;
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
