// What a training run will cost, from its config alone.
#pragma once

#include <string>

#include "training/train_config.h"

namespace moga {

// A table of the transformer's training: for every stage tokens, operations (three forward passes for forward
// and backward, four with recompute; a film of one shot) and hours of one GPU at `flops_per_second`; and the
// memory of weights, gradients and optimiser. Sizes are those of config.model if it exists, else of
// config.base.
std::string training_cost(const TrainConfig& config, double flops_per_second);

}  // namespace moga
