#include "training/optimizer.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

namespace moga {

Optimizer::Optimizer(const torch::Tensor& values, const OptimizerSettings& settings)
    : values_(values),
      settings_(settings),
      first_moment_(torch::zeros_like(values.detach())),
      second_moment_(torch::zeros_like(values.detach())),
      average_(values.detach().clone()) {}

void Optimizer::step(double learning_rate) {
  // The average of few steps: a fixed decay would keep the start's random weights for 1 / (1 - decay) steps.
  const double warm = (1.0 + static_cast<double>(steps_)) / (10.0 + static_cast<double>(steps_));
  const double average_weight = 1 - std::min(settings_.average_decay, warm);
  ++steps_;
  const bool on_cpu = values_.is_cpu();
  // Five pieces of 128 KiB and a temporary fit into the second-level cache; a GPU wants large ones.
  const int64_t piece = on_cpu ? int64_t{1} << 15 : int64_t{1} << 25;
  const int64_t count = values_.numel();
  const auto steps = [&](int64_t first, int64_t last) {
    const torch::NoGradGuard no_grad;  // of this thread
    for (int64_t i = first; i < last; ++i) {
      step_piece(i * piece, std::min((i + 1) * piece, count), learning_rate, average_weight);
    }
  };
  const int64_t pieces = (count + piece - 1) / piece;
  on_cpu ? at::parallel_for(0, pieces, 1, steps) : steps(0, pieces);
}

// As torch::optim::AdamW does it.
void Optimizer::step_piece(int64_t begin, int64_t end, double learning_rate, double average_weight) {
  constexpr double kEpsilon = 1e-8;
  const auto steps = static_cast<double>(steps_);
  const double correction1 = 1 - std::pow(settings_.beta1, steps);
  const double correction2 = 1 - std::pow(settings_.beta2, steps);
  const auto piece = [&](const torch::Tensor& flat) { return flat.narrow(0, begin, end - begin); };
  const torch::Tensor gradient = piece(values_.grad());
  torch::Tensor values = piece(values_.detach());
  torch::Tensor first = piece(first_moment_);
  torch::Tensor second = piece(second_moment_);
  values.mul_(1 - learning_rate * settings_.weight_decay);
  first.mul_(settings_.beta1).add_(gradient, 1 - settings_.beta1);
  second.mul_(settings_.beta2).addcmul_(gradient, gradient, 1 - settings_.beta2);
  const torch::Tensor scale = second.sqrt().div_(std::sqrt(correction2)).add_(kEpsilon);
  values.addcdiv_(first, scale, -learning_rate / correction1);
  piece(average_).lerp_(values, average_weight);
}

OptimizerState Optimizer::state() const {
  return {steps_, first_moment_, second_moment_, average_};
}

void Optimizer::set_state(const OptimizerState& state) {
  const torch::NoGradGuard no_grad;
  steps_ = state.steps;
  average_.copy_(state.average);
  first_moment_.copy_(state.first_moment);
  second_moment_.copy_(state.second_moment);
}

}  // namespace moga
