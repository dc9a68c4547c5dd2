// The training loop that every kind of training shares: stages, accumulation, the guard, optimiser, moving
// average, checkpoints, metrics.
#pragma once

#include <torch/torch.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "distributed/sharded_parameters.h"
#include "training/flat_parameters.h"
#include "training/step_random.h"
#include "training/train_config.h"

namespace moga {

struct StepResult {
  torch::Tensor loss;  // scalar; the loop runs its backward pass
  // For metrics.jsonl: scalars, which also stand in the progress line, and matrices; on any device (read only
  // when they are logged).
  std::vector<std::pair<std::string, torch::Tensor>> metrics;
};

// A step's batch is computed in `count` equal parts, one after another (gradient accumulation) or by several
// processes. Films and noise are drawn for the whole batch and then cut, so that they do not depend on it.
struct BatchPart {
  int64_t index = 0;
  int64_t count = 1;
  int64_t begin(int64_t batch) const { return batch * index / count; }
  int64_t end(int64_t batch) const { return batch * (index + 1) / count; }
};

struct StepContext {
  const StageConfig& stage;
  int64_t stage_index;
  int64_t step;   // in the whole run; libtorch's generators are seeded from (seed, step) before the step
  uint64_t seed;  // of this step, for data order
  BatchPart part;
};

struct StepInputs {
  std::vector<torch::Tensor> tensors;
  int64_t bucket = 0;  // within a stage, inputs of one bucket have the same sizes
};

// One step in two parts. `inputs` draws films and noise and puts them on the device; it is asked one step
// ahead, while a GPU still computes. `loss` computes from the inputs, the weights and context.stage alone, so
// that a GPU can replay it from a CUDA graph. The loss is the mean over the part's films.
struct TrainingStep {
  std::function<StepInputs(const StepContext&)> inputs;
  std::function<StepResult(const StepContext&, const StepInputs&)> loss;
};

// Something to be done with the averaged weights every `every` steps and at the end; 0 is never. What it
// returns goes to the metrics. It must leave the weights as they are; `step` steps are done.
struct PeriodicTask {
  int64_t every = 0;
  std::function<nlohmann::ordered_json(int64_t step)> run;
};

struct RunOptions {
  bool accept_changes = false;      // go on from a checkpoint that was made with other settings
  std::vector<PeriodicTask> tasks;  // several processes: done by the first alone
  std::optional<Mesh> mesh = {};    // of several processes
};

enum class TrainEnd { kFinished, kInterrupted };

// Runs all stages from the newest checkpoint in config.work (or from the start); a run that was killed and
// resumed, however often, ends with the same bits as one that was not. On return `flat` holds the moving
// average if the run finished. SIGINT and SIGTERM save a checkpoint and return kInterrupted. Steps that the
// guard refuses leave weights and optimiser as they are. Throws Error, after saving the last good state, if
// too many follow one another. With options.mesh all its processes call this: each step's batch is cut into
// parts for the groups of the mesh, and the loss of a part is the same on all processes of a group, each of
// which gives its part of the gradient (attention/sequence_parallel.h). Only the first process writes.
TrainEnd run_training(const TrainConfig& config, FlatParameters& flat, const TrainingStep& step,
                      const RunOptions& options = {});

// Linear warm-up from zero, then a half cosine from the stage's learning rate to its final share.
double learning_rate(const StageConfig& stage, int64_t step_in_stage);

}  // namespace moga
