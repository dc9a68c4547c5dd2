// What a training run is between two steps, and its way to a checkpoint and back.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "distributed/sharded_parameters.h"
#include "training/checkpoints.h"
#include "training/flat_parameters.h"
#include "training/optimizer.h"
#include "training/step_guard.h"
#include "training/train_config.h"

namespace moga {

struct RunState {
  FlatParameters& flat;
  std::shared_ptr<Communicator> ranks;  // null: one process
  std::unique_ptr<ShardedParameters> shares;
  Optimizer optimizer;  // of this process's share
  StepGuard guard;
  int64_t step =
      0;  // steps done, skipped ones included; with the config's seed it gives data order and noise
};

// All ranks then have the weights of the first.
RunState start_state(const TrainConfig& config, FlatParameters& flat, std::shared_ptr<Communicator> ranks);

// weights, average and optimizer as files of tensors by name; step, guard and config in state.json. All ranks
// call it; only the first gets it.
std::optional<RunCheckpoint> to_checkpoint(const TrainConfig& config, const RunState& state);

// Throws Error if the checkpoint is of another model, or, unless `accept_changes`, of other settings than
// those that may change between two starts (how often things are written); it names what differs. The number
// of processes may change, with a warning. All ranks call it, with what the first has.
void from_checkpoint(const TrainConfig& config, const std::optional<RunCheckpoint>& checkpoint,
                     bool accept_changes, RunState& state);

}  // namespace moga
