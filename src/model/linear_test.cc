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

// Against float64: rows enough for the CPU's own products and too few, inputs that lie anyhow.
TEST(Linear, ProductAndItsGradients) {
  torch::manual_seed(4);
  for (const int64_t rows : {3, 40}) {
    for (const bool with_bias : {true, false}) {
      const torch::Tensor weight = torch::randn({24, 36}).t().requires_grad_(true);
      const torch::Tensor bias = with_bias ? torch::randn({36}).requires_grad_(true) : torch::Tensor();
      const torch::Tensor x = torch::randn({2, 24, rows}).transpose(1, 2).requires_grad_(true);
      const torch::Tensor dy = torch::randn({2, 36, rows}).transpose(1, 2);
      const auto wide = [](const torch::Tensor& t) {
        return t.defined() ? t.detach().to(torch::kFloat64).requires_grad_(true) : t;
      };
      std::vector<torch::Tensor> inputs = {x, weight}, exact_inputs = {wide(x), wide(weight)};
      if (with_bias) {
        inputs.push_back(bias);
        exact_inputs.push_back(wide(bias));
      }
      const torch::Tensor y = linear_product(x, weight, bias);
      const torch::Tensor exact =
          torch::linear(exact_inputs[0], exact_inputs[1], with_bias ? exact_inputs[2] : torch::Tensor());
      ASSERT_EQ(y.sizes(), exact.sizes());
      EXPECT_LT((y - exact).abs().max().item<double>(), 2e-5);
      const auto grads = torch::autograd::grad({y}, inputs, {dy});
      const auto exact_grads = torch::autograd::grad({exact}, exact_inputs, {dy.to(torch::kFloat64)});
      for (size_t i = 0; i < grads.size(); ++i) {
        ASSERT_EQ(grads[i].sizes(), inputs[i].sizes());
        EXPECT_LT((grads[i] - exact_grads[i]).abs().max().item<double>(), 5e-5) << i;
      }
    }
  }
}

TEST(Linear, FrozenWeightsKeepNoActivations) {
  torch::manual_seed(4);
  const torch::Tensor weight = torch::randn({32, 16});
  const torch::Tensor x = torch::randn({64, 16});
  const auto users_of_x = [&](bool frozen) {
    const torch::Tensor w = weight.detach().requires_grad_(!frozen);
    const torch::Tensor input = torch::ones({1}).requires_grad_(true) * x;
    const torch::Tensor y = linear_product(input, w, {});
    EXPECT_TRUE(y.requires_grad());
    return input.use_count();
  };
  EXPECT_EQ(users_of_x(/*frozen=*/true) + 1, users_of_x(/*frozen=*/false));
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
