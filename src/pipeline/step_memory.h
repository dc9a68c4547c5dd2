// Memory of a training step: what its forward pass keeps for the backward pass, counted tensor by tensor.
//
// float32 is counted as the CPU's kernels keep it, bfloat16 as a GPU does under automatic mixed precision:
// the residual stream, what norms read and what gates multiply stay float32 there.
#pragma once

#include "model/wan_config.h"

namespace moga {

// One film, or what one of several processes has of it.
struct StepShape {
  double tokens = 0;
  double attended = 0;   // tokens times the share of the heads that visual attention has of them
  double text_rows = 0;  // of all captions
};

// Bytes at the fullest moment of a step, weights, gradients and optimiser left aside: when the backward pass
// has come to the last block's feed-forward layer and nothing of the blocks is freed yet.
struct StepMemory {
  double whole = 0;
  double recomputed = 0;  // if blocks are computed again in the backward pass
};
StepMemory training_step_memory(const DitConfig& dit, Precision precision, const StepShape& shape);

}  // namespace moga
