// Rectified flow: noise levels, schedules and the Euler solver. Pure functions over a denoiser; never a
// model.
//
// A sample at noise level s in [0, 1] is x_s = (1 - s) * x_0 + s * noise; the model predicts v = noise - x_0.
#pragma once

#include <torch/torch.h>

#include <array>
#include <functional>
#include <vector>

#include "base/config.h"

namespace moga {

// s -> shift * s / (1 + (shift - 1) * s): spends more of a schedule at high noise for shift > 1 (SD3, Wan).
double shift_noise_level(double level, double shift);

struct FlowSchedule {
  std::vector<double> sigmas;      // [steps + 1], from 1 down to 0
  std::vector<int64_t> timesteps;  // [steps], 1000 * sigma, truncated in float64 as the Wan pipeline does
};

// Linear from 1 towards 0 in `steps` steps, shifted; a final 0 is appended. Throws Error unless steps >= 1,
// shift > 0.
FlowSchedule flow_schedule(int64_t steps, double shift);

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

// v(x, timestep): the guided prediction for the current sample.
using Denoiser = std::function<torch::Tensor(const torch::Tensor& x, int64_t timestep)>;
// Called after every step with the number of finished steps, the sample and the current estimate of x_0.
using StepCallback = std::function<void(int64_t done, const torch::Tensor& x, const torch::Tensor& clean)>;

// Euler steps first_step .. end of `schedule` from sample x (noise if first_step is 0).
torch::Tensor euler_sample(const Denoiser& denoise, torch::Tensor x, const FlowSchedule& schedule,
                           int64_t first_step = 0, const StepCallback& after_step = nullptr);

// v_uncond + scale * (v_cond - v_uncond).
torch::Tensor guide(const torch::Tensor& conditional, const torch::Tensor& unconditional, double scale);

}  // namespace moga
