#include "diffusion/flow.h"

#include <gtest/gtest.h>

namespace moga {
namespace {

TEST(Flow, PairsAndGuidance) {
  const torch::Tensor clean = torch::full({2, 2}, 1.0F);
  const torch::Tensor noise = torch::full({2, 2}, 3.0F);
  const FlowPair pair = make_flow_pair(clean, noise, torch::tensor({0.0F, 0.5F}));
  EXPECT_EQ(pair.noisy[0][0].item<float>(), 1);
  EXPECT_EQ(pair.noisy[1][0].item<float>(), 2);
  EXPECT_EQ(pair.target[0][0].item<float>(), 2);
  EXPECT_TRUE(guide(clean, noise, 1).equal(clean));
  EXPECT_EQ(guide(noise, clean, 2)[0][0].item<float>(), 5);
}

TEST(Flow, NoiseLevelsLieInsideAndShiftUp) {
  torch::manual_seed(4);
  for (const NoiseLevels kind : {NoiseLevels::kUniform, NoiseLevels::kLogitNormal}) {
    const torch::Tensor plain = draw_noise_levels(20000, kind, 1);
    EXPECT_GT(plain.min().item<float>(), 0);
    EXPECT_LT(plain.max().item<float>(), 1);
    EXPECT_NEAR(plain.mean().item<float>(), 0.5, 0.01);
    EXPECT_GT(draw_noise_levels(20000, kind, 3).mean().item<float>(), 0.6);
  }
}

}  // namespace
}  // namespace moga
