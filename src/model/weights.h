// Between modules and named tensors.
#pragma once

#include <torch/torch.h>

#include <map>
#include <string>

namespace moga {

using TensorMap = std::map<std::string, torch::Tensor>;

// All parameters of a module by name, detached, on the CPU, converted to `dtype` (floating ones).
TensorMap module_weights(const torch::nn::Module& module, torch::ScalarType dtype = torch::kFloat32);

// Copies `weights` into the module's parameters (converted to their dtype and device). Throws Error that
// lists what is missing, unexpected or of another shape; then nothing was changed. `source` names the file.
void load_weights(torch::nn::Module& module, const TensorMap& weights, const std::string& source);

int64_t parameter_count(const torch::nn::Module& module);

}  // namespace moga
