#include "diffusion/flow.h"

namespace moga {

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

torch::Tensor guide(const torch::Tensor& conditional, const torch::Tensor& unconditional, double scale) {
  return unconditional + scale * (conditional - unconditional);
}

}  // namespace moga
