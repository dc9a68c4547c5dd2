// Where tests that can run anywhere run.
#pragma once

#include <ATen/Context.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cstdlib>
#include <string>

#include "distributed/ranks.h"

namespace moga {

// MOGA_DEVICE=cuda: a GPU, of several processes each its own; otherwise the CPU. A GPU that was asked for and
// is not there is a failure, not a skip. float32 products are then float32 throughout (no TF32), as the
// tests' tolerances expect.
inline torch::Device test_device() {
  const char* name = std::getenv("MOGA_DEVICE");
  if (name == nullptr || std::string(name) == "cpu") {
    return torch::kCPU;
  }
  if (std::string(name) != "cuda" || !torch::cuda::is_available()) {
    ADD_FAILURE() << "MOGA_DEVICE=" << name << ": expected cpu, or cuda and a libtorch that sees a GPU";
    return torch::kCPU;
  }
  at::globalContext().setAllowTF32CuBLAS(false);
  at::globalContext().setAllowTF32CuDNN(false);
  const auto ranks = find_ranks();
  return {torch::kCUDA, static_cast<c10::DeviceIndex>(ranks ? ranks->local_rank : 0)};
}

// "cpu" or "cuda", for --device.
inline std::string test_device_name() {
  return test_device().is_cuda() ? "cuda" : "cpu";
}

}  // namespace moga
