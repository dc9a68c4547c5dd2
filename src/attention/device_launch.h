// For code that gives tensors to src/kernels/cuda; only in builds that have it (MOGA_CUDA_KERNELS).
#pragma once

#include <c10/cuda/CUDAStream.h>
#include <torch/torch.h>

#include "base/error.h"
#include "kernels/cuda/token_kernels.h"

namespace moga {

inline cuda::Element element_of(torch::ScalarType type) {
  switch (type) {
    case torch::kFloat32:
      return cuda::Element::kFloat32;
    case torch::kFloat16:
      return cuda::Element::kFloat16;
    case torch::kBFloat16:
      return cuda::Element::kBfloat16;
    default:
      fail("GPU kernels: expected float32, float16 or bfloat16, found {}", c10::toString(type));
  }
}
inline cuda::Element element_of(const torch::Tensor& x) {
  return element_of(x.scalar_type());
}

inline cuda::Stream stream_of(const torch::Tensor& x) {
  return c10::cuda::getCurrentCUDAStream(x.device().index()).stream();
}

inline void check_launch(const char* name, const char* error) {
  MOGA_CHECK(error == nullptr, "GPU kernel {}: {}", name, error);
}

}  // namespace moga
