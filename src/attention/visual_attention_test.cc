#include "attention/visual_attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "attention/test_util.h"
#include "base/error.h"

namespace moga {
namespace {

using torch::Tensor;

const FilmLayout kLayout = {4, 2, 3, {0, 2}};
constexpr int64_t kTokens = 24;

struct Film {
  test::Leaves x;
  Tensor hidden;
  Router router;
  MogaConfig config;

  Film(AttentionKind kind, int64_t groups, int64_t batch = 1)
      : x(batch * kTokens, batch * kTokens, 2, 3, 5), router(6, groups) {
    torch::manual_seed(17);
    router->to(test_device(), torch::kFloat64);
    hidden = torch::randn({batch * kTokens, 6}, torch::kFloat64).to(test_device());
    config.kind = kind;
    config.groups = groups;
    config.windows = {.rows = 2, .cols = 2, .temporal_group = 2};
  }
  Tensor run(int64_t batch = 1) {
    return visual_attention(x.q, x.k, x.v, plan_static_groups(kLayout, config, batch, test_device()),
                            router->forward(hidden), config);
  }
  Tensor over(const GroupIndex& groups, const Tensor& row_scale = {}) {
    return grouped_attention(x.q, x.k, x.v, to_groups(groups, test_device()), row_scale).out_LND;
  }
};

TEST(VisualAttention, IsTheMeanOfItsParts) {
  Film film(AttentionKind::kMoga, 3);
  const Routing routing = film.router->forward(film.hidden);
  const Tensor windows = film.over(window_groups(kLayout, film.config.windows));
  const Tensor frames = film.over(frame_groups(kLayout));
  const Tensor routed = grouped_attention(film.x.q, film.x.k, film.x.v,
                                          groups_from_ids(routing.group_ids_L, 3), routing.top_prob_L)
                            .out_LND;
  EXPECT_TRUE(torch::allclose(film.run(), (windows + frames + routed) / 3, 1e-12, 1e-12));
  film.config.kind = AttentionKind::kStatic;
  EXPECT_TRUE(torch::allclose(film.run(), (windows + frames) / 2, 1e-12, 1e-12));
  film.config.kind = AttentionKind::kDynamic;
  EXPECT_TRUE(torch::allclose(film.run(), routed, 1e-12, 1e-12));
  film.config.kind = AttentionKind::kFull;
  EXPECT_TRUE(torch::allclose(film.run(), film.over(full_groups(kTokens)), 1e-12, 1e-12));
}

TEST(VisualAttention, OneGroupEqualsFullAttentionTimesItsProbability) {
  Film film(AttentionKind::kDynamic, 1);
  EXPECT_TRUE(torch::allclose(film.run(), film.over(full_groups(kTokens)), 1e-12, 1e-12));
  // With more groups than the tokens use, p < 1 remains as a factor.
  Film two(AttentionKind::kDynamic, 2);
  {
    const torch::NoGradGuard guard;
    two.router->linear->bias.copy_(torch::tensor({30.0, 0.0}, torch::kFloat64));
    two.router->linear->weight.mul_(10);
  }
  const Routing routing = two.router->forward(two.hidden);
  ASSERT_TRUE(routing.group_ids_L.eq(0).all().item<bool>());
  const Tensor expected = two.over(full_groups(kTokens)) * routing.top_prob_L.view({-1, 1, 1});
  EXPECT_TRUE(torch::allclose(two.run(), expected, 1e-12, 1e-12));
}

TEST(VisualAttention, TheRouterLearnsThroughItsTopProbability) {
  Film film(AttentionKind::kMoga, 3);
  const Tensor weights = torch::randn({kTokens, 2, 3}, torch::kFloat64).to(test_device());
  test::expect_gradients([&] { return (film.run() * weights).sum(); },
                         {film.router->linear->weight, film.router->linear->bias, film.x.q});
  EXPECT_GT(film.router->linear->weight.grad().abs().max().item<double>(), 1e-4);
}

TEST(VisualAttention, SamplesOfABatchDoNotMix) {
  for (const auto kind :
       {AttentionKind::kMoga, AttentionKind::kFull, AttentionKind::kStatic, AttentionKind::kDynamic}) {
    Film film(kind, 3, 2);
    const Tensor both = film.run(2);
    for (int64_t b = 0; b < 2; ++b) {
      Film one(kind, 3);
      const auto mine = [b](const Tensor& t) { return t.slice(0, b * kTokens, (b + 1) * kTokens); };
      one.x.q = mine(film.x.q);
      one.x.k = mine(film.x.k);
      one.x.v = mine(film.x.v);
      one.hidden = mine(film.hidden);
      one.router = film.router;
      EXPECT_TRUE(torch::allclose(mine(both), one.run(), 1e-12, 1e-12)) << enum_name(kind);
    }
  }
}

TEST(VisualAttention, TellsWhatIsMissing) {
  Film film(AttentionKind::kMoga, 3);
  const auto plan = plan_static_groups(kLayout, film.config, 1, test_device());
  const auto run = [&](const Routing& routing) {
    return visual_attention(film.x.q, film.x.k, film.x.v, plan, routing, film.config);
  };
  EXPECT_THROW(run(Routing{}), Error);
  film.config.kind = AttentionKind::kFull;
  EXPECT_THROW(run(Routing{}), Error);
  EXPECT_THROW(plan_static_groups(kLayout, film.config, 0, test_device()), Error);
}

}  // namespace
}  // namespace moga
