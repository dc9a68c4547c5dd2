#include "model/weights.h"

#include "base/error.h"

namespace moga {

TensorMap module_weights(const torch::nn::Module& module, torch::ScalarType dtype) {
  TensorMap weights;
  for (const auto& item : module.named_parameters()) {
    // clone(): a caller that keeps the map must not see later training steps.
    weights[item.key()] = item.value().detach().to(torch::kCPU, dtype).clone();
  }
  return weights;
}

void load_weights(torch::nn::Module& module, const TensorMap& weights, const std::string& source) {
  std::vector<std::string> problems;
  const auto parameters = module.named_parameters();
  for (const auto& item : parameters) {
    const auto found = weights.find(item.key());
    if (found == weights.end()) {
      problems.push_back("missing " + item.key());
    } else if (found->second.sizes() != item.value().sizes()) {
      problems.push_back(fmt::format("{} is [{}], expected [{}]", item.key(),
                                     fmt::join(found->second.sizes(), ", "),
                                     fmt::join(item.value().sizes(), ", ")));
    }
  }
  for (const auto& [name, tensor] : weights) {
    if (parameters.find(name) == nullptr) {
      problems.push_back("unexpected " + name);
    }
  }
  constexpr size_t kShown = 8;
  const size_t count = problems.size();
  if (count > kShown) {
    problems.resize(kShown);
    problems.push_back(fmt::format("and {} more", count - kShown));
  }
  MOGA_CHECK(count == 0, "{} does not fit the model: {}", source, fmt::join(problems, "; "));
  const torch::NoGradGuard guard;
  for (const auto& item : parameters) {
    item.value().copy_(weights.at(item.key()));
  }
}

int64_t parameter_count(const torch::nn::Module& module) {
  int64_t count = 0;
  for (const auto& parameter : module.parameters()) {
    count += parameter.numel();
  }
  return count;
}

}  // namespace moga
