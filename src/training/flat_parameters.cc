#include "training/flat_parameters.h"

#include "base/error.h"
#include "base/threads.h"

namespace moga {

FlatParameters::FlatParameters(const Named& modules, torch::Device device) {
  const torch::NoGradGuard guard;
  std::vector<torch::Tensor> pieces;
  int64_t offset = 0;
  for (const auto& [prefix, module] : modules) {
    module->to(device);
    for (const auto& item : module->named_parameters()) {
      const torch::Tensor& parameter = item.value();
      if (!parameter.requires_grad()) {
        continue;
      }
      MOGA_CHECK(parameter.scalar_type() == torch::kFloat32, "{} is trained in {}, expected float32",
                 item.key(), torch::toString(parameter.scalar_type()));
      places_.push_back(
          {prefix.empty() ? item.key() : prefix + "." + item.key(), offset, parameter.sizes().vec()});
      parameters_.push_back(parameter);
      pieces.push_back(parameter.detach().flatten());
      offset += parameter.numel();
    }
  }
  MOGA_CHECK(!parameters_.empty(), "no parameter of the model is trained");
  values_ = torch::cat(pieces).contiguous();
  values_.mutable_grad() = torch::zeros_like(values_);
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const int64_t count = parameters_[i].numel();
    parameters_[i].set_data(values_.narrow(0, places_[i].offset, count).view(places_[i].sizes));
    // Autograd adds into a gradient that is already there, so these views collect the flat gradient.
    parameters_[i].mutable_grad() = values_.grad().narrow(0, places_[i].offset, count).view(places_[i].sizes);
  }
  pieces.clear();
  release_free_memory();  // where the parameters lay before: too small for what a step makes
}

void FlatParameters::zero_gradients() {
  values_.mutable_grad().zero_();
}

std::map<std::string, torch::Tensor> FlatParameters::named(const torch::Tensor& flat) const {
  std::map<std::string, torch::Tensor> views;
  for (const Place& place : places_) {
    views[place.name] = flat.narrow(0, place.offset, c10::multiply_integers(place.sizes)).view(place.sizes);
  }
  return views;
}

OtherValues::OtherValues(FlatParameters& flat, const torch::Tensor& values)
    : flat_(flat), own_(flat.values().detach().clone()) {
  const torch::NoGradGuard guard;
  flat_.values().copy_(values);
}

OtherValues::~OtherValues() {
  const torch::NoGradGuard guard;
  flat_.values().copy_(own_);
}

}  // namespace moga
