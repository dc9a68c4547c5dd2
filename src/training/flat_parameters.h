// All parameters of some modules as views of one flat tensor, their gradients as views of another, so that
// the optimiser, clipping, averaging and checkpoints are a handful of operations whatever the number of
// tensors.
#pragma once

#include <torch/torch.h>

#include <vector>

namespace moga {

class FlatParameters {
 public:
  // Moves the modules' parameters (float32) into one buffer on `device`. The modules stay usable and must
  // outlive this object.
  FlatParameters(const std::vector<torch::nn::Module*>& modules, torch::Device device);

  torch::Tensor& values() { return values_; }  // [P]; its grad() is the flat gradient
  torch::Tensor gradients() { return values_.grad(); }
  void zero_gradients();
  // Scales the gradient to at most `max_norm`; returns the norm before that (a device scalar).
  torch::Tensor clip_gradients(double max_norm);

 private:
  torch::Tensor values_;
};

}  // namespace moga
