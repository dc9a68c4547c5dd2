// What `moga plan` says that a training step and a forward pass take, against what libtorch allocates in one.
#include <gtest/gtest.h>

#include "model/tensor_memory.h"
#include "pipeline/planner.h"
#include "training/dit_loss.h"
#include "training/flat_parameters.h"
#include "training/optimizer.h"

namespace moga {
namespace {

// 1,280 tokens, one shot.
PlanRequest small_film(AttentionKind kind) {
  PlanRequest request;
  request.model = model_config("wan-1.3b");
  DitConfig& dit = request.model.dit;
  dit.dim = 192;
  dit.heads = 6;
  dit.layers = 3;
  dit.ffn_dim = 768;
  dit.text_dim = 64;
  dit.text_len = 32;
  dit.attention.kind = kind;
  request.frames = 29;
  request.width = 256;
  request.height = 160;
  request.precision = Precision::kF32;
  return request;
}

struct Step {
  double training = 0;  // bytes at most, weights and optimiser included
  double beside = 0;    // at most in the optimiser's step, beside what stays
};

Step measured_step(const FilmPlan& film, bool recompute) {
  torch::manual_seed(1);
  const DitConfig& sizes = film.request.model.dit;
  const FilmLayout& layout = film.layout;
  TensorMemory memory;
  WanDit dit(sizes);
  dit->recompute_blocks(recompute);
  FlatParameters flat({{"", dit.get()}}, torch::kCPU);
  Optimizer optimizer(flat.values(), {});
  DitBatch batch;
  batch.plan = plan_dit({layout}, GlobalText::kNone, sizes, torch::kCPU);
  batch.clean_BZFHW = torch::randn({1, sizes.in_channels, layout.frames, 2 * layout.rows, 2 * layout.cols});
  batch.noise_BZFHW = torch::randn_like(batch.clean_BZFHW);
  batch.levels_B = torch::full({1}, 0.5);
  const torch::Tensor text = torch::randn({1, batch.plan.captions, sizes.text_len, sizes.text_dim});
  memory.forget_peak();  // building is no part of a step
  dit_loss({}, dit, text, batch).loss.backward();
  Step step;
  step.training = static_cast<double>(memory.peak());
  memory.forget_peak();
  const int64_t before = memory.bytes();
  optimizer.step(1e-4);
  step.beside = static_cast<double>(memory.peak() - before);
  return step;
}

// Bytes of activations in a forward pass without gradients.
double measured_pass(const FilmPlan& film) {
  const c10::InferenceMode mode;
  torch::manual_seed(1);
  const DitConfig& sizes = film.request.model.dit;
  const FilmLayout& layout = film.layout;
  WanDit dit(sizes);
  const DitPlan plan = plan_dit({layout}, GlobalText::kNone, sizes, torch::kCPU);
  const torch::Tensor latent =
      torch::randn({1, sizes.in_channels, layout.frames, 2 * layout.rows, 2 * layout.cols});
  const torch::Tensor text = torch::randn({1, plan.captions, sizes.text_len, sizes.text_dim});
  const TensorMemory memory;
  dit->forward(latent, torch::full({1}, 500.0F), text, plan);
  return static_cast<double>(memory.peak());
}

TEST(StepMemory, PlannedIsWhatLibtorchAllocates) {
  for (const auto kind :
       {AttentionKind::kMoga, AttentionKind::kFull, AttentionKind::kStatic, AttentionKind::kDynamic}) {
    const FilmPlan film = plan_film(small_film(kind));
    for (const bool recompute : {false, true}) {
      const Step step = measured_step(film, recompute);
      const MemoryCounts& plan = film.memory;
      const double planned =
          plan.weights_train + (recompute ? plan.activations_train_checkpointed : plan.activations_train);
      EXPECT_NEAR(step.training / planned, 1, 0.02) << enum_name(kind) << recompute;
      EXPECT_LT(step.beside, 1 << 20) << "the optimiser works in pieces";
    }
  }
}

TEST(StepMemory, WhatLibtorchSaysOfTooMuchIsOneLine) {
  try {
    torch::empty({int64_t{1} << 50});
    FAIL() << "four petabytes were allocated";
  } catch (const std::exception& error) {
    const auto shortage = memory_shortage(error);
    ASSERT_TRUE(shortage) << error.what();
    EXPECT_EQ(*shortage, "can't allocate memory: you tried to allocate 4503599627370496 bytes");
  }
}

TEST(StepMemory, AForwardPassTakesWhatIsPlanned) {
  // The feed-forward layer is the fullest place of the first, the attention that of the second.
  for (const int64_t hidden : {1536, 192}) {
    PlanRequest request = small_film(AttentionKind::kMoga);
    request.model.dit.ffn_dim = hidden;
    request.model.vae.dim = 2;  // whose decoder would need more
    const FilmPlan film = plan_film(request);
    EXPECT_NEAR(measured_pass(film) / film.memory.activations_generate, 1, 0.05) << hidden;
  }
}

}  // namespace
}  // namespace moga
