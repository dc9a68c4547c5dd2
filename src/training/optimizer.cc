#include "training/optimizer.h"

#include "attention/torch_compat.h"

namespace moga {

namespace {

torch::optim::AdamWOptions adam_options(const OptimizerSettings& settings) {
  torch::optim::AdamWOptions options;
  options.weight_decay(settings.weight_decay).betas({settings.beta1, settings.beta2});
  return options;
}

}  // namespace

Optimizer::Optimizer(const torch::Tensor& values, const OptimizerSettings& settings)
    : values_(values),
      settings_(settings),
      adam_({values}, adam_options(settings)),
      average_(values.detach().clone()) {}

void Optimizer::step(double learning_rate) {
  static_cast<torch::optim::AdamWOptions&>(adam_.param_groups()[0].options()).lr(learning_rate);
  adam_.step();
  // The average of few steps: a fixed decay would keep the start's random weights for 1 / (1 - decay) steps.
  const double warm = (1.0 + static_cast<double>(steps_)) / (10.0 + static_cast<double>(steps_));
  average_.lerp_(values_.detach(), 1 - std::min(settings_.average_decay, warm));
  ++steps_;
}

OptimizerState Optimizer::state() const {
  OptimizerState state{steps_, {}, {}, average_};
  for (const auto& entry : adam_.state()) {  // one: all parameters are one flat tensor
    const auto& moments = static_cast<const torch::optim::AdamWParamState&>(*entry.second);
    state.first_moment = moments.exp_avg();
    state.second_moment = moments.exp_avg_sq();
  }
  if (!state.first_moment.defined()) {  // before the first step
    state.first_moment = torch::zeros_like(average_);
    state.second_moment = torch::zeros_like(average_);
  }
  return state;
}

void Optimizer::set_state(const OptimizerState& state) {
  steps_ = state.steps;
  average_.copy_(state.average);
  auto moments = std::make_unique<torch::optim::AdamWParamState>();
  moments->step(state.steps);
  moments->exp_avg(state.first_moment.to(average_.device(), torch::kFloat32, false, /*copy=*/true));
  moments->exp_avg_sq(state.second_moment.to(average_.device(), torch::kFloat32, false, /*copy=*/true));
  adam_.state()[compat::optimizer_key(values_)] = std::move(moments);
}

}  // namespace moga
