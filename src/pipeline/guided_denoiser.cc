#include "pipeline/guided_denoiser.h"

#include "diffusion/flow.h"

namespace moga {

using torch::Tensor;

Tensor with_first_frame(const Tensor& x_BZFHW, const Tensor& first_BZ1HW) {
  return first_BZ1HW.defined() ? torch::cat({first_BZ1HW, x_BZFHW.slice(2, 1)}, 2) : x_BZFHW;
}

GuidedDenoiser::GuidedDenoiser(WanDit dit, const FilmLayout& layout, GlobalText global, Prompts prompts,
                               double guidance, GuidancePasses passes, Tensor first_BZ1HW,
                               torch::Device device, const std::shared_ptr<Communicator>& ranks)
    : dit_(std::move(dit)),
      prompts_(std::move(prompts)),
      guidance_(guidance),
      first_(std::move(first_BZ1HW)),
      device_(device),
      batched_(passes == GuidancePasses::kBatched && prompts_.unconditional.defined()),
      plan_(plan_dit(std::vector<FilmLayout>(batched_ ? 2 : 1, layout), global, dit_->config(), device,
                     torch::kFloat32, nullptr, ranks)) {}

Tensor GuidedDenoiser::operator()(const Tensor& x_BZFHW, double timestep, DitTrace* trace) {
  const Tensor x = with_first_frame(x_BZFHW, first_);
  const Tensor t = torch::full({plan_.batch}, timestep, torch::kFloat64).to(device_);
  Tensor v;
  if (batched_) {
    const Tensor both = dit_->forward(
        torch::cat({x, x}), t, torch::cat({prompts_.conditional, prompts_.unconditional}), plan_, trace);
    v = guide(both.slice(0, 0, 1), both.slice(0, 1, 2), guidance_);
  } else {
    v = dit_->forward(x, t, prompts_.conditional, plan_, trace);
    if (prompts_.unconditional.defined()) {
      v = guide(v, dit_->forward(x, t, prompts_.unconditional, plan_), guidance_);
    }
  }
  return first_.defined() ? with_first_frame(v, torch::zeros_like(first_)) : v;
}

}  // namespace moga
