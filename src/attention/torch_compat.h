// Differences between libtorch 1.13 and 2.11, in one place.
#pragma once

#include <ATen/autocast_mode.h>
#include <torch/torch.h>
#include <torch/version.h>

#include <optional>
#include <string>

#define MOGA_TORCH_AT_LEAST(major, minor) \
  (TORCH_VERSION_MAJOR > (major) || (TORCH_VERSION_MAJOR == (major) && TORCH_VERSION_MINOR >= (minor)))

namespace moga::compat {

// Schemas of registered operators: c10::optional was a type of its own up to 2.3 and is gone from later
// releases.
#if MOGA_TORCH_AT_LEAST(2, 4)
template <typename T>
using Optional = std::optional<T>;
#else
template <typename T>
using Optional = c10::optional<T>;
#endif

// The dtype that matrix products are to be computed in (automatic mixed precision), if that is switched on.
inline std::optional<torch::ScalarType> autocast_type(torch::Device device) {
#if MOGA_TORCH_AT_LEAST(2, 4)
  return at::autocast::is_autocast_enabled(device.type())
             ? std::optional(at::autocast::get_autocast_dtype(device.type()))
             : std::nullopt;
#else
  const bool enabled = device.is_cuda() ? at::autocast::is_enabled() : at::autocast::is_cpu_enabled();
  return enabled ? std::optional(device.is_cuda() ? at::autocast::get_autocast_gpu_dtype()
                                                  : at::autocast::get_autocast_cpu_dtype())
                 : std::nullopt;
#endif
}

inline void set_autocast(torch::Device device, std::optional<torch::ScalarType> type) {
#if MOGA_TORCH_AT_LEAST(2, 4)
  at::autocast::set_autocast_enabled(device.type(), type.has_value());
  if (type) {
    at::autocast::set_autocast_dtype(device.type(), *type);
  }
#else
  device.is_cuda() ? at::autocast::set_enabled(type.has_value())
                   : at::autocast::set_cpu_enabled(type.has_value());
  if (type) {
    device.is_cuda() ? at::autocast::set_autocast_gpu_dtype(*type)
                     : at::autocast::set_autocast_cpu_dtype(*type);
  }
#endif
}

// Automatic mixed precision of `type` (absent: none) on a kind of device while it lives. Only the outermost
// scope that switches it on drops the cached casts of weights.
class Autocast {
 public:
  Autocast(torch::Device device, std::optional<torch::ScalarType> type)
      : device_(device), previous_(autocast_type(device)) {
    at::autocast::increment_nesting();
    set_autocast(device_, type);
  }
  ~Autocast() {
    if (at::autocast::decrement_nesting() == 0) {
      at::autocast::clear_cache();
    }
    set_autocast(device_, previous_);
  }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  torch::Device device_;
  std::optional<torch::ScalarType> previous_;
};

}  // namespace moga::compat
