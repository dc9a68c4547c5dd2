// Looking inside a forward pass: tests compare intermediate tensors, conversion reads hidden states.
#pragma once

#include <torch/torch.h>

#include <functional>
#include <string>

namespace moga {

// Receives intermediate tensors by name, as they are made. An empty observer costs nothing.
using Observer = std::function<void(const std::string& name, const torch::Tensor& value)>;

}  // namespace moga
