// The training loop that every kind of training shares: stages, optimiser, moving average, checkpoints,
// metrics.
#pragma once

#include <torch/torch.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "training/flat_parameters.h"
#include "training/train_config.h"

namespace moga {

struct StepResult {
  torch::Tensor loss;  // scalar; the loop runs its backward pass
  // Scalars for metrics.jsonl and the progress line, on any device (read only when they are logged).
  std::vector<std::pair<std::string, torch::Tensor>> metrics;
};

struct StepContext {
  const StageConfig& stage;
  int64_t stage_index;
  int64_t step;   // in the whole run; libtorch's generators are seeded from (seed, step) before the step
  uint64_t seed;  // of this step, for data order
};
// One step in two parts. `inputs` draws films and noise and puts them on the device. `loss` computes from
// them, the weights and context.stage alone; in all steps of a stage the tensors have the same sizes, so that
// a GPU can replay the second part from a CUDA graph.
struct TrainingStep {
  std::function<std::vector<torch::Tensor>(const StepContext&)> inputs;
  std::function<StepResult(const StepContext&, const std::vector<torch::Tensor>&)> loss;
};

enum class TrainEnd { kFinished, kInterrupted };

// Runs all stages from the newest checkpoint in config.work (or from the start). Every step's randomness
// depends on (seed, step) alone, so a resumed run repeats what the killed one would have done. On return
// `flat` holds the moving average if the run finished. SIGINT and SIGTERM save a checkpoint and return
// kInterrupted.
TrainEnd run_training(const TrainConfig& config, FlatParameters& flat, const TrainingStep& step);

// The seed of a step's randomness.
uint64_t step_seed(uint64_t run_seed, int64_t step);

// Films of one step: `batch` indices below `films`, a fresh shuffle every pass, from (seed, step) alone.
std::vector<int64_t> batch_indices(uint64_t seed, int64_t step, int64_t batch, int64_t films);

}  // namespace moga
