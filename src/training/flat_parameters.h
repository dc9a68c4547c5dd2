// The trained parameters of some modules as views of one flat tensor, their gradients as views of another, so
// that the optimiser, clipping, averaging and checkpoints are a handful of operations whatever the number of
// tensors.
#pragma once

#include <torch/torch.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

namespace moga {

class FlatParameters {
 public:
  using Named = std::vector<std::pair<std::string, torch::nn::Module*>>;

  // Moves the modules' parameters that require a gradient into one float32 buffer on `device`, and the frozen
  // ones there as they are. A parameter's name is "PREFIX.NAME", or its own if the module's prefix is empty.
  // The modules stay usable and must outlive this object. Throws Error if nothing is trained.
  FlatParameters(const Named& modules, torch::Device device);

  torch::Tensor& values() { return values_; }  // [P]; its grad() is the flat gradient
  torch::Tensor gradients() { return values_.grad(); }
  void zero_gradients();
  const std::vector<torch::Tensor>& parameters() const { return parameters_; }  // in their order in values()

  // Views of a flat tensor [P] by the parameters' names and shapes.
  std::map<std::string, torch::Tensor> named(const torch::Tensor& flat) const;

 private:
  struct Place {
    std::string name;
    int64_t offset;
    std::vector<int64_t> sizes;
  };
  torch::Tensor values_;
  std::vector<Place> places_;
  std::vector<torch::Tensor> parameters_;
};

// Other values in the parameters while it lives, say their average.
class OtherValues {
 public:
  OtherValues(FlatParameters& flat, const torch::Tensor& values);
  ~OtherValues();
  OtherValues(const OtherValues&) = delete;
  OtherValues& operator=(const OtherValues&) = delete;

 private:
  FlatParameters& flat_;
  torch::Tensor own_;
};

}  // namespace moga
