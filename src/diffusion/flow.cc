#include "diffusion/flow.h"

#include "base/error.h"

namespace moga {

double shift_noise_level(double level, double shift) {
  return shift * level / (1 + (shift - 1) * level);
}

FlowSchedule flow_schedule(int64_t steps, double shift) {
  MOGA_CHECK(steps >= 1 && steps <= 10000, "expected 1 to 10000 denoising steps, found {}", steps);
  MOGA_CHECK(shift > 0 && std::isfinite(shift), "the flow shift must be positive, found {}", shift);
  FlowSchedule schedule;
  const double step = (0.0 - 1.0) / static_cast<double>(steps);
  for (int64_t i = 0; i < steps; ++i) {
    const double sigma = shift_noise_level(1.0 + static_cast<double>(i) * step, shift);
    schedule.sigmas.push_back(sigma);
    schedule.timesteps.push_back(static_cast<int64_t>(sigma * 1000));
  }
  schedule.sigmas.push_back(0);
  return schedule;
}

torch::Tensor draw_noise_levels(int64_t count, NoiseLevels kind, double shift) {
  const torch::Tensor raw =
      kind == NoiseLevels::kUniform ? torch::rand({count}) : torch::sigmoid(torch::randn({count}));
  return shift * raw / (1 + (shift - 1) * raw);
}

FlowPair make_flow_pair(const torch::Tensor& clean, const torch::Tensor& noise,
                        const torch::Tensor& levels_B) {
  std::vector<int64_t> shape(static_cast<size_t>(clean.dim()), 1);
  shape[0] = levels_B.numel();
  const torch::Tensor s = levels_B.view(shape);
  return {(1 - s) * clean + s * noise, noise - clean};
}

torch::Tensor euler_sample(const Denoiser& denoise, torch::Tensor x, const FlowSchedule& schedule,
                           int64_t first_step, const StepCallback& after_step) {
  const auto steps = static_cast<int64_t>(schedule.timesteps.size());
  for (int64_t i = first_step; i < steps; ++i) {
    const double sigma = schedule.sigmas[i];
    const torch::Tensor v = denoise(x, schedule.timesteps[i]);
    const torch::Tensor clean = x - sigma * v;
    // The difference of float32 sigmas, as the reference trajectories have it.
    const float delta = static_cast<float>(schedule.sigmas[i + 1]) - static_cast<float>(sigma);
    x = x + delta * v;
    if (after_step) {
      after_step(i + 1, x, clean);
    }
  }
  return x;
}

torch::Tensor guide(const torch::Tensor& conditional, const torch::Tensor& unconditional, double scale) {
  return unconditional + scale * (conditional - unconditional);
}

}  // namespace moga
