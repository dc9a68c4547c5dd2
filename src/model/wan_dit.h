// The Wan2.1 diffusion transformer with attention over groups.
//
// Dimensions: B samples of one layout, L tokens a sample, N heads, D head size, C model width, R text rows.
#pragma once

#include <torch/torch.h>

#include <memory>
#include <vector>

#include "attention/visual_attention.h"
#include "model/layers.h"
#include "model/observer.h"
#include "model/rope.h"
#include "model/wan_config.h"

namespace moga {

// All that depends on where the tokens are and not on what they are: made once per film, used by every layer
// and every denoising step.
struct DitPlan {
  FilmLayout layout;  // of the first film: all have its size
  int64_t batch = 1;
  int64_t captions =
      1;  // caption slots a sample: one a shot, and a last one for film-wide text if there is any
  StaticPlan visual;
  Groups text;  // shot-level cross-attention
  RopeTable rope;
};

enum class GlobalText { kNone, kLastCaption };

// The largest groups of any film of a set, and its most shots.
struct DitPlanSizes {
  StaticSizes visual;
  GroupSizes text;
  int64_t shots = 0;
};
DitPlanSizes dit_plan_sizes(const std::vector<FilmLayout>& layouts, GlobalText global,
                            const DitConfig& config, const std::shared_ptr<Communicator>& ranks = nullptr);

// For a batch of films of one size, whose shots may differ: caption slots are as many as the film with the
// most shots needs; a film-wide caption is always the last slot. With `sizes`, of a set that holds the films,
// plans of different batches differ in nothing but the values of their tensors. With `ranks`, each of these
// processes computes its share of the tokens (attention/sequence_parallel.h): all give forward() the same
// inputs and get the same prediction, and the routing in a trace is that of the process's own tokens.
DitPlan plan_dit(const std::vector<FilmLayout>& layouts, GlobalText global, const DitConfig& config,
                 torch::Device device, torch::ScalarType dtype = torch::kFloat32,
                 const DitPlanSizes* sizes = nullptr, const std::shared_ptr<Communicator>& ranks = nullptr);

// All tensors of a plan.
std::vector<torch::Tensor*> plan_tensors(DitPlan& plan);

// What one forward pass did inside.
struct DitTrace {
  std::vector<Routing> routing;  // one entry a block; empty if the attention has no routers
  // If set, is given what the blocks make, under "block3.self_attn.in" and the like: self_attn.{in, q_norm,
  // k_norm, v, q_rope, k_rope, core, out}, cross_attn.{in, q_norm, k_norm, core, out}, ffn.{in, out}, out;
  // and around them sinusoid, e, e0, tokens, context_padded, context_emb, head.tokens.
  Observer observe;
  std::string place;  // where the pass is: "block3."
};

class WanBlockImpl;

class WanDitImpl : public torch::nn::Module {
 public:
  explicit WanDitImpl(const DitConfig& config);

  // latent_BCFHW [B, in_channels, F, H, W] with H = 2 * rows, W = 2 * cols of the plan's layout.
  // timestep_B [B], 0..1000. captions_BSRT [B, captions, rows <= text_len, text_dim]: text encoder outputs,
  // padded with zero rows (Wan pads with zeros before its text MLP and masks nothing). Returns the flow
  // prediction [B, out_channels, F, H, W] in float32. `trace`, if given, receives what is asked for in it.
  torch::Tensor forward(const torch::Tensor& latent_BCFHW, const torch::Tensor& timestep_B,
                        const torch::Tensor& captions_BSRT, const DitPlan& plan, DitTrace* trace = nullptr);

  // Training keeps only each block's inputs and computes the block again in the backward pass: memory of one
  // block instead of all, for about a third more time. The blocks' parameters then get their gradients only
  // through backward() (into grad()), not through torch::autograd::grad().
  void recompute_blocks(bool on) { recompute_blocks_ = on; }

  const DitConfig& config() const { return config_; }

 private:
  // [B, C, F, H, W] -> [B, L, C], or this process's tokens.
  torch::Tensor embed_patches(const torch::Tensor& latent_BCFHW, const DitPlan& plan);

  DitConfig config_;
  bool recompute_blocks_ = false;
  torch::nn::Conv3d patch_embedding_{nullptr};
  Mlp text_embedding_{nullptr};
  Mlp time_embedding_{nullptr};
  Linear time_projection_{nullptr};
  std::vector<std::shared_ptr<WanBlockImpl>> blocks_;
  Linear head_{nullptr};
  torch::Tensor head_modulation_;
};
TORCH_MODULE(WanDit);

// cos then sin of t * 10000^(-j / half), j = 0..half-1, in float64. timestep_B [B] -> [B, width].
torch::Tensor sinusoidal_embedding(const torch::Tensor& timestep_B, int64_t width);

}  // namespace moga
