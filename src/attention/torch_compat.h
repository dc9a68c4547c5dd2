// Differences between libtorch 1.13 and 2.11, in one place.
#pragma once

#include <torch/torch.h>
#include <torch/version.h>

#include <optional>
#include <tuple>

namespace moga::compat {

// Schemas of registered operators: c10::optional was a type of its own up to 2.3 and is gone from later
// releases.
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 4)
template <typename T>
using Optional = std::optional<T>;
#else
template <typename T>
using Optional = c10::optional<T>;
#endif

// Ascending; equal values keep their order. Returns values and positions.
inline std::tuple<torch::Tensor, torch::Tensor> stable_sort(const torch::Tensor& values_L) {
  return at::sort(values_L, /*stable=*/Optional<bool>(true), /*dim=*/0, /*descending=*/false);
}

}  // namespace moga::compat
