// Rectified flow: noise levels, training pairs and guidance.
//
// A sample at noise level s in [0, 1] is x_s = (1 - s) * x_0 + s * noise; the model predicts v = noise - x_0.
#pragma once

#include <torch/torch.h>

#include <array>

#include "base/config.h"

namespace moga {

// How training draws noise levels.
enum class NoiseLevels {
  kLogitNormal,  // sigmoid of a normal, then the shift map
  kUniform,      // uniform, then the shift map
};
template <>
struct EnumNames<NoiseLevels> {
  static constexpr std::array<std::pair<NoiseLevels, const char*>, 2> kNames = {
      {{NoiseLevels::kLogitNormal, "logit_normal"}, {NoiseLevels::kUniform, "uniform"}}};
};
// [count] float32 in (0, 1), from libtorch's default generator.
torch::Tensor draw_noise_levels(int64_t count, NoiseLevels kind, double shift);

// x_s and the target v for clean x_BX and levels_B.
struct FlowPair {
  torch::Tensor noisy;
  torch::Tensor target;
};
FlowPair make_flow_pair(const torch::Tensor& clean, const torch::Tensor& noise,
                        const torch::Tensor& levels_B);

// v_uncond + scale * (v_cond - v_uncond).
torch::Tensor guide(const torch::Tensor& conditional, const torch::Tensor& unconditional, double scale);

}  // namespace moga
