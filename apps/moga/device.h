// --device auto|cpu|cuda; auto is what MOGA_DEVICE says, or else a GPU if there is one.
#pragma once

#include <torch/torch.h>

#include <cstdlib>
#include <string>
#include <string_view>

#include "base/error.h"

namespace moga {

inline torch::Device choose_device(const std::string& name) {
  if (name == "auto") {
    if (const char* wanted = std::getenv("MOGA_DEVICE"); wanted != nullptr && *wanted != '\0') {
      MOGA_CHECK(std::string_view(wanted) != "auto", "MOGA_DEVICE: expected cpu or cuda, found 'auto'");
      return choose_device(wanted);
    }
    return torch::cuda::is_available() ? torch::Device(torch::kCUDA, 0) : torch::Device(torch::kCPU);
  }
  MOGA_CHECK(name == "cpu" || name == "cuda", "--device: expected auto, cpu or cuda, found '{}'", name);
  MOGA_CHECK(name == "cpu" || torch::cuda::is_available(),
             "--device cuda: this libtorch sees no CUDA device (libtorch {}); use --device cpu",
             TORCH_VERSION);
  return name == "cpu" ? torch::Device(torch::kCPU) : torch::Device(torch::kCUDA, 0);
}

}  // namespace moga
