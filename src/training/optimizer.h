// AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) and the moving average of the weights, over a flat
// tensor: all parameters of a run, or the slice of them that one of several processes looks after. A step
// goes through it piece by piece, so that the dozen operations of a piece find its values in the cache and
// nothing of the flat tensor's size is made beside it.
#pragma once

#include <torch/torch.h>

#include <cstdint>

namespace moga {

struct OptimizerSettings {
  double beta1 = 0.9;
  double beta2 = 0.99;
  double weight_decay = 0.01;
  double average_decay = 0.999;  // of the moving average; less in a run's first steps
};

// All that a step depends on besides weights and gradient. Tensors are [P], like the weights.
struct OptimizerState {
  int64_t steps = 0;  // taken; skipped ones do not count
  torch::Tensor first_moment;
  torch::Tensor second_moment;
  torch::Tensor average;
};

class Optimizer {
 public:
  // values: [P] float32, contiguous, with its gradient in values.grad(); changed in place by step().
  Optimizer(const torch::Tensor& values, const OptimizerSettings& settings);

  void step(double learning_rate);
  const torch::Tensor& average() const { return average_; }

  OptimizerState state() const;                 // shares memory with the optimiser
  void set_state(const OptimizerState& state);  // copies

 private:
  void step_piece(int64_t begin, int64_t end, double learning_rate, double average_weight);

  torch::Tensor values_;
  OptimizerSettings settings_;
  torch::Tensor first_moment_;
  torch::Tensor second_moment_;
  torch::Tensor average_;
  int64_t steps_ = 0;
};

}  // namespace moga
