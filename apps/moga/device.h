// --device auto|cpu|cuda.
#pragma once

#include <torch/torch.h>

#include <string>

#include "base/error.h"

namespace moga {

inline torch::Device choose_device(const std::string& name) {
  if (name == "auto") {
    return torch::cuda::is_available() ? torch::Device(torch::kCUDA, 0) : torch::Device(torch::kCPU);
  }
  MOGA_CHECK(name == "cpu" || name == "cuda", "--device: expected auto, cpu or cuda, found '{}'", name);
  MOGA_CHECK(name == "cpu" || torch::cuda::is_available(),
             "--device cuda: this libtorch sees no CUDA device (libtorch {}); use --device cpu",
             TORCH_VERSION);
  return name == "cpu" ? torch::Device(torch::kCPU) : torch::Device(torch::kCUDA, 0);
}

}  // namespace moga
