#include "model/linear.h"

#include <gtest/gtest.h>

#include "model/wan_dit.h"
#include "model/weights.h"

namespace moga {
namespace {

TEST(Linear, StartsAndComputesLikeLibtorchs) {
  torch::manual_seed(9);
  torch::nn::Linear theirs(7, 5);
  torch::manual_seed(9);
  Linear ours(7, 5);
  EXPECT_TRUE(ours->weight.equal(theirs->weight));
  EXPECT_TRUE(ours->bias.equal(theirs->bias));
  const torch::Tensor x = torch::randn({2, 3, 7});
  EXPECT_TRUE(ours(x).equal(theirs(x)));
  EXPECT_FALSE(Linear(7, 5, false)->bias.defined());
}

TEST(Linear, NarrowWeightsGiveWideResults) {
  const torch::NoGradGuard guard;
  torch::manual_seed(2);
  Linear layer(256, 64);
  const torch::Tensor x = torch::randn({31, 256});
  const torch::Tensor exact = torch::linear(x, layer->weight.to(torch::kBFloat16).to(torch::kFloat32),
                                            layer->bias.to(torch::kBFloat16).to(torch::kFloat32));
  const torch::Tensor weight = layer->weight.to(torch::kBFloat16);
  const torch::Tensor bias = layer->bias.to(torch::kBFloat16);
  // Widening is exact; rounding x and the result costs up to 2^-8 of the sizes at hand.
  EXPECT_LT((linear_widened(x, weight, bias) - exact).abs().max().item<double>(), 1e-6);
  EXPECT_LT((linear_rounded(x, weight, bias) - exact).abs().max().item<double>(), 0.02);
  layer->to(torch::kBFloat16);
  const torch::Tensor y = layer(x);
  EXPECT_EQ(y.scalar_type(), torch::kFloat32);
  EXPECT_LT((y - exact).abs().max().item<double>(), 0.02);
  EXPECT_EQ(layer(x.to(torch::kBFloat16)).scalar_type(), torch::kBFloat16);
}

// Fourteen billion parameters, none of them in memory.
TEST(BareWeights, LargeNetworksTakeNoMemory) {
  const BareWeights bare;
  const WanDit dit(model_config("wan-14b").dit);
  EXPECT_GT(parameter_count(*dit), 14'000'000'000);
  const torch::Tensor weight = dit->named_parameters()["blocks.39.ffn.0.weight"];
  EXPECT_EQ(weight.sizes(), torch::IntArrayRef({13824, 5120}));
  EXPECT_LE(weight.storage().nbytes(), 4U);
}

}  // namespace
}  // namespace moga
