#include "training/flat_parameters.h"

namespace moga {

FlatParameters::FlatParameters(const std::vector<torch::nn::Module*>& modules, torch::Device device) {
  const torch::NoGradGuard guard;
  std::vector<torch::Tensor> parameters;
  std::vector<torch::Tensor> pieces;
  for (torch::nn::Module* module : modules) {
    module->to(device);
    for (const torch::Tensor& parameter : module->parameters()) {
      parameters.push_back(parameter);
      pieces.push_back(parameter.detach().flatten());
    }
  }
  values_ = torch::cat(pieces).contiguous();
  values_.mutable_grad() = torch::zeros_like(values_);
  int64_t offset = 0;
  for (torch::Tensor& parameter : parameters) {
    const int64_t count = parameter.numel();
    const auto sizes = parameter.sizes().vec();
    parameter.set_data(values_.narrow(0, offset, count).view(sizes));
    // Autograd adds into a gradient that is already there, so these views collect the flat gradient.
    parameter.mutable_grad() = values_.grad().narrow(0, offset, count).view(sizes);
    offset += count;
  }
}

void FlatParameters::zero_gradients() {
  values_.mutable_grad().zero_();
}

torch::Tensor FlatParameters::clip_gradients(double max_norm) {
  torch::Tensor& gradient = values_.mutable_grad();
  torch::Tensor norm = gradient.norm();
  gradient.mul_((max_norm / (norm + 1e-12)).clamp_max(1));
  return norm;
}

}  // namespace moga
