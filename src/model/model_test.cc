// That the modules compute what the reference does is tests/golden_test.cc's business.
#include <gtest/gtest.h>

#include "attention/torch_compat.h"
#include "base/error.h"
#include "distributed/device_test_util.h"
#include "model/wan_dit.h"
#include "model/weights.h"

namespace moga {
namespace {

DitConfig tiny_dit() {
  DitConfig config;
  config.dim = 64;
  config.ffn_dim = 144;
  config.freq_dim = 32;
  config.text_dim = 40;
  config.text_len = 16;
  config.heads = 4;
  config.layers = 2;
  config.attention.kind = AttentionKind::kFull;
  return config;
}

TEST(Weights, MisfitsAreListed) {
  WanDit dit(tiny_dit());
  TensorMap weights = module_weights(*dit);
  weights.erase("head.modulation");
  weights["extra"] = torch::zeros({1});
  weights["patch_embedding.bias"] = torch::zeros({3});
  try {
    load_weights(*dit, weights, "file");
    FAIL() << "no error";
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("missing head.modulation"), std::string::npos) << text;
    EXPECT_NE(text.find("unexpected extra"), std::string::npos) << text;
    EXPECT_NE(text.find("patch_embedding.bias is [3], expected [64]"), std::string::npos) << text;
  }
}

// Loss with a term of the routers', and the gradients of all parameters.
std::pair<torch::Tensor, TensorMap> loss_and_gradients(WanDit& dit, bool recompute,
                                                       std::optional<torch::ScalarType> autocast) {
  const DitConfig& config = dit->config();
  const DitPlan plan = plan_dit({{3, 4, 4, {0, 2}}}, GlobalText::kNone, config, test_device());
  torch::manual_seed(3);
  const torch::Tensor latent = torch::randn({1, config.in_channels, 3, 8, 8}).to(test_device());
  const torch::Tensor captions = torch::randn({1, 2, 5, config.text_dim}).to(test_device());
  dit->zero_grad();
  dit->recompute_blocks(recompute);
  DitTrace trace;
  torch::Tensor loss;
  {
    const compat::Autocast cast(test_device(), autocast);
    const torch::Tensor out =
        dit->forward(latent, torch::full({1}, 500.0, test_device()), captions, plan, &trace);
    EXPECT_EQ(trace.routing.size(), static_cast<size_t>(config.layers));
    loss = out.square().mean();
    for (const Routing& routing : trace.routing) {
      loss = loss + 0.1 * balance_loss(routing, BalanceForm::kSwitch) + routing.top_prob_L.mean();
    }
  }
  loss.backward();
  TensorMap gradients;
  for (const auto& item : dit->named_parameters()) {
    gradients[item.key()] = item.value().grad().clone();
  }
  return {loss.detach(), gradients};
}

TEST(WanDit, RecomputedBlocksGiveTheSameGradients) {
  torch::manual_seed(1);
  DitConfig config = tiny_dit();
  config.attention.kind = AttentionKind::kMoga;
  config.attention.groups = 3;
  WanDit dit(config);
  dit->to(test_device());
  for (const auto autocast : {std::optional<torch::ScalarType>(), std::optional(torch::kBFloat16)}) {
    const auto [loss, kept] = loss_and_gradients(dit, false, autocast);
    const auto [again, recomputed] = loss_and_gradients(dit, true, autocast);
    EXPECT_EQ(loss.item<float>(), again.item<float>());
    // The gradient of what several blocks share is summed in another order, in its own type.
    const double tolerance = autocast ? 0.01 : 1e-5;
    for (const auto& [name, gradient] : kept) {
      const double size = gradient.norm().item<double>();
      EXPECT_GT(size, 0) << name;
      EXPECT_LE((gradient - recomputed.at(name)).norm().item<double>(), tolerance * size) << name;
    }
  }
}

}  // namespace
}  // namespace moga
