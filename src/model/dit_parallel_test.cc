// The transformer on several processes against one: predictions, losses and every parameter's gradient.
#include <gmock/gmock.h>

#include "distributed/ranks_test_util.h"
#include "model/wan_dit.h"

namespace moga {
namespace {

using torch::Tensor;

DitConfig narrow_dit(AttentionKind kind) {
  DitConfig config;
  config.dim = 48;
  config.heads = 3;
  config.layers = 2;
  config.ffn_dim = 64;
  config.in_channels = 4;
  config.out_channels = 4;
  config.text_dim = 10;
  config.text_len = 6;
  config.freq_dim = 16;
  config.attention.kind = kind;
  config.attention.groups = 3;
  config.attention.windows = {.rows = 2, .cols = 2, .temporal_group = 2};
  return config;
}

struct DitPass {
  Tensor prediction;
  double loss = 0;
  std::map<std::string, Tensor> gradients;
};

DitPass run_dit(const DitConfig& config, bool recompute, const std::shared_ptr<Communicator>& ranks) {
  torch::manual_seed(5);
  WanDit dit(config);
  dit->to(test_device());
  dit->recompute_blocks(recompute);
  const std::vector<FilmLayout> films = {{5, 2, 3, {0, 2}}, {5, 2, 3, {0, 1, 4}}};
  const DitPlan plan =
      plan_dit(films, GlobalText::kLastCaption, config, test_device(), torch::kFloat32, nullptr, ranks);
  const Tensor latent = torch::randn({2, 4, 5, 4, 6}).to(test_device());
  const Tensor captions = torch::randn({2, plan.captions, 5, config.text_dim}).to(test_device());
  const Tensor target = torch::randn({2, 4, 5, 4, 6}).to(test_device());
  DitPass pass;
  const Tensor prediction =
      dit->forward(latent, torch::tensor({400.0, 700.0}, torch::kFloat64).to(test_device()), captions, plan);
  const Tensor loss = (prediction - target).square().mean();
  loss.backward();
  pass.prediction = prediction.detach();
  pass.loss = loss.item<double>();
  for (const auto& parameter : dit->named_parameters()) {
    Tensor gradient = parameter.value().grad();
    gradient = gradient.defined() ? gradient.clone() : torch::zeros_like(parameter.value());
    if (ranks) {
      ranks->all_reduce(gradient, "gradient");
    }
    pass.gradients[parameter.key()] = gradient;
  }
  return pass;
}

// Largest difference, relative to the largest value.
double relative_error(const Tensor& found, const Tensor& expected) {
  return (found - expected).abs().max().item<double>() / std::max(1e-12, expected.abs().max().item<double>());
}

TEST(DitParallel, PredictionAndGradientsAreThoseOfOneProcess) {
  in_ranks({2, 3, 4, 8}, [](const auto& world) {
    for (const bool recompute : {false, true}) {
      for (const auto kind : {AttentionKind::kMoga, AttentionKind::kFull}) {
        SCOPED_TRACE(enum_name(kind) + (recompute ? ", recomputed" : ""));
        const DitConfig config = narrow_dit(kind);
        const DitPass whole = run_dit(config, recompute, nullptr);
        const DitPass split = run_dit(config, recompute, world);
        EXPECT_LE(relative_error(split.prediction, whole.prediction), 5e-6);
        EXPECT_NEAR(split.loss, whole.loss, 5e-6 * whole.loss);
        for (const auto& [name, gradient] : whole.gradients) {
          EXPECT_LE(relative_error(split.gradients.at(name), gradient), 5e-5) << name;
        }
        // The same bits on all ranks: each goes on to the next step with its own copy.
        const Tensor host = split.prediction.cpu().contiguous();
        world->check_equal({static_cast<const char*>(host.data_ptr()), host.nbytes()}, "prediction");
      }
    }
  });
}

TEST(DitParallel, PlansOfASetHaveOneSize) {
  in_ranks({3}, [](const auto& world) {
    const DitConfig config = narrow_dit(AttentionKind::kMoga);
    const std::vector<FilmLayout> films = {{5, 2, 3, {0, 2}}, {5, 2, 3, {0, 1, 4}}};
    const DitPlanSizes sizes = dit_plan_sizes(films, GlobalText::kNone, config, world);
    DitPlan first =
        plan_dit({films[0]}, GlobalText::kNone, config, test_device(), torch::kFloat32, &sizes, world);
    DitPlan second =
        plan_dit({films[1]}, GlobalText::kNone, config, test_device(), torch::kFloat32, &sizes, world);
    const auto a = plan_tensors(first);
    const auto b = plan_tensors(second);
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) {
      EXPECT_EQ(a[i]->sizes(), b[i]->sizes()) << i;
    }
  });
}

}  // namespace
}  // namespace moga
