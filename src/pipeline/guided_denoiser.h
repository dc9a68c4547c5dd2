// What a solver asks at every step: the transformer's prediction with guidance, beside a given first frame.
#pragma once

#include <torch/torch.h>

#include <array>
#include <memory>

#include "base/config.h"
#include "model/wan_dit.h"

namespace moga {

// The passes with and without text that guidance takes at every step.
enum class GuidancePasses {
  kSeparate,  // one after the other, as the reference does: less memory
  kBatched,   // both as one batch of two: the same but for rounding
};
template <>
struct EnumNames<GuidancePasses> {
  static constexpr std::array<std::pair<GuidancePasses, const char*>, 2> kNames = {
      {{GuidancePasses::kSeparate, "separate"}, {GuidancePasses::kBatched, "batched"}}};
};

// Text of a film, one caption slot a shot and a last one for film-wide text if there is any.
struct Prompts {
  torch::Tensor conditional;  // [1, slots, rows, text_dim]
  torch::Tensor
      unconditional;  // the same shape: the negative prompt in every slot; undefined without guidance
};

// `x_BZFHW` with its first latent frame replaced, if there is one to replace it with.
//
// A film whose first frame is given keeps that latent frame clean from the first step to the last: the model
// sees it in every pass, the other frames are denoised beside it, and its own velocity is zero, which every
// solver turns into the same latent again (its estimate of x_0 is the sample). The model is still told the
// one noise level of the other frames, for Wan2.1's text-to-video weights know no level a frame.
torch::Tensor with_first_frame(const torch::Tensor& x_BZFHW, const torch::Tensor& first_BZ1HW);

class GuidedDenoiser {
 public:
  // `first_BZ1HW` [1, Z, 1, h, w]: the latent of a given first frame; undefined: none. Guidance takes two
  // passes if prompts.unconditional is defined. `ranks`: processes that share the film's tokens, all of which
  // call with the same x.
  GuidedDenoiser(WanDit dit, const FilmLayout& layout, GlobalText global, Prompts prompts, double guidance,
                 GuidancePasses passes, torch::Tensor first_BZ1HW, torch::Device device,
                 const std::shared_ptr<Communicator>& ranks = nullptr);

  // x [1, Z, F, H, W] -> v of that shape. `trace`, if given, receives what the pass with text did (batched:
  // both passes, the one with text first).
  torch::Tensor operator()(const torch::Tensor& x_BZFHW, double timestep, DitTrace* trace);

  const DitPlan& plan() const { return plan_; }

 private:
  WanDit dit_;
  Prompts prompts_;
  double guidance_;
  torch::Tensor first_;
  torch::Device device_;
  bool batched_;
  DitPlan plan_;
};

}  // namespace moga
