// Small tensors on their way to a GPU.
#pragma once

#include <torch/torch.h>

namespace moga {

// values.to(device) without waiting for what the GPU has still to do: through pinned memory.
inline torch::Tensor upload(const torch::Tensor& values, torch::Device device) {
  return values.is_cpu() && device.is_cuda() ? values.pin_memory().to(device, /*non_blocking=*/true)
                                             : values.to(device);
}

}  // namespace moga
