// Forward and backward of a training step, on a GPU replayed from a CUDA graph.
//
// A small model's step is thousands of short kernels, and launching them takes longer than running them. The
// graph is recorded in a stage's fourth step and launched as one from then on.
#pragma once

#include <torch/torch.h>

#include <functional>
#include <memory>
#include <vector>

#include "training/loop.h"

namespace moga {

class StepReplay {
 public:
  using Compute = std::function<StepResult(const StepInputs&)>;

  // While it lives on a CUDA device, this thread's work goes to a stream of its own (graphs cannot be
  // recorded on the default one). `graphs` false, or a libtorch without CUDA: every step is computed anew.
  StepReplay(torch::Device device, bool graphs);
  ~StepReplay();
  StepReplay(const StepReplay&) = delete;
  StepReplay& operator=(const StepReplay&) = delete;

  // compute(inputs) and the backward pass of its loss divided by `parts`. With one stage and bucket, the
  // sizes of the inputs and what compute does must be the same in every call. What is returned is valid until
  // the next call.
  StepResult run(int64_t stage, int64_t parts, const StepInputs& inputs, const Compute& compute);

 private:
  struct Graph;
  std::unique_ptr<Graph> graph_;  // absent: every step is computed anew
};

}  // namespace moga
