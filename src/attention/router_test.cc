#include "attention/router.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "attention/groups.h"
#include "attention/test_util.h"
#include "base/error.h"

namespace moga {
namespace {

using torch::Tensor;

// A routing with given scores [L, M].
Routing routing_of(const Tensor& scores_LM) {
  Routing routing;
  routing.probs_LM = torch::softmax(scores_LM, -1);
  const auto [top, id] = routing.probs_LM.max(-1);
  routing.top_prob_L = top;
  routing.group_ids_L = id;
  return routing;
}

TEST(Router, SoftmaxAndTopOne) {
  torch::manual_seed(1);
  Router router(8, 4);
  router->to(test_device());
  const Tensor x = torch::randn({20, 8}).to(test_device());
  const Routing routing = router->forward(x);
  const Tensor expected = torch::softmax(torch::linear(x, router->linear->weight, router->linear->bias), -1);
  EXPECT_TRUE(torch::allclose(routing.probs_LM, expected));
  EXPECT_TRUE(torch::equal(routing.group_ids_L, expected.argmax(-1)));
  EXPECT_TRUE(torch::equal(routing.top_prob_L, std::get<0>(routing.probs_LM.max(-1))));
  EXPECT_EQ(routing.group_ids_L.scalar_type(), torch::kInt64);
  EXPECT_THROW(router->forward(torch::randn({20, 7})), Error);
  EXPECT_THROW(Router(8, 0), Error);
}

// float32 of few groups takes a kernel of its own; float64 is libtorch's.
TEST(Router, ScoresAndGradientsOfBothWaysAgree) {
  torch::manual_seed(2);
  Router router(20, 5);
  Router wide(20, 5);
  {
    const torch::NoGradGuard guard;
    wide->to(torch::kFloat64);
    wide->linear->weight.copy_(router->linear->weight);
    wide->linear->bias.copy_(router->linear->bias);
  }
  const torch::Tensor x = torch::randn({30, 20}, torch::requires_grad());
  const torch::Tensor x64 = x.detach().to(torch::kFloat64).requires_grad_(true);
  const torch::Tensor weight = torch::randn({30, 5});
  const auto probs = router->forward(x.t().contiguous().t()).probs_LM;  // strided
  const auto probs64 = wide->forward(x64).probs_LM;
  (probs * weight).sum().backward();
  (probs64 * weight).sum().backward();
  EXPECT_TRUE(probs.to(torch::kFloat64).allclose(probs64, 1e-5, 1e-6));
  EXPECT_TRUE(x.grad().to(torch::kFloat64).allclose(x64.grad(), 1e-4, 1e-5));
  EXPECT_TRUE(
      router->linear->weight.grad().to(torch::kFloat64).allclose(wide->linear->weight.grad(), 1e-4, 1e-5));
  EXPECT_TRUE(
      router->linear->bias.grad().to(torch::kFloat64).allclose(wide->linear->bias.grad(), 1e-4, 1e-5));
}

TEST(Router, TheLowestIdWinsATie) {
  Router router(3, 4);
  {
    const torch::NoGradGuard guard;
    router->linear->weight.zero_();
    router->linear->bias.copy_(torch::tensor({0.0F, 1.0F, 1.0F, 1.0F}));
  }
  EXPECT_TRUE(router->forward(torch::randn({5, 3})).group_ids_L.eq(1).all().item<bool>());
}

TEST(Router, ProbabilitiesOfHalfPrecisionAreFloat32) {
  Router router(8, 4);
  router->to(torch::kBFloat16);
  EXPECT_EQ(router->linear->weight.scalar_type(), torch::kBFloat16);
  const Routing routing = router->forward(torch::randn({6, 8}).to(torch::kBFloat16));
  EXPECT_EQ(routing.probs_LM.scalar_type(), torch::kFloat32);
  EXPECT_TRUE(torch::allclose(routing.probs_LM.sum(-1), torch::ones({6})));
}

TEST(Router, ParametersAreNamedWeightAndBias) {
  Router router(8, 4);
  const auto names = router->named_parameters().keys();
  EXPECT_THAT(names, testing::UnorderedElementsAre("weight", "bias"));
}

TEST(BalanceLoss, IsOneAtUniformRoutingInTheSwitchForm) {
  // Nearly equal scores, each group chosen equally often.
  const Tensor scores = (torch::eye(4, torch::kFloat64) * 1e-9).repeat({8, 1});
  EXPECT_NEAR(balance_loss(routing_of(scores), BalanceForm::kSwitch).item<double>(), 1.0, 1e-8);
  // The printed form is the mean top-1 probability there.
  EXPECT_NEAR(balance_loss(routing_of(scores), BalanceForm::kPaper).item<double>(), 0.25, 1e-8);
  const Routing sure = routing_of((torch::eye(4, torch::kFloat64) * 50).repeat({8, 1}));
  EXPECT_NEAR(balance_loss(sure, BalanceForm::kPaper).item<double>(), 1.0, 1e-8);
}

TEST(BalanceLoss, IsTheGroupCountWhenAllTokensShareOneGroup) {
  const Tensor scores = torch::zeros({10, 5}, torch::kFloat64);
  scores.select(1, 2).fill_(60);
  for (const auto form : {BalanceForm::kPaper, BalanceForm::kSwitch}) {
    EXPECT_NEAR(balance_loss(routing_of(scores), form).item<double>(), 5.0, 1e-8);
  }
}

TEST(BalanceLoss, FollowsTheFormulasTokenByToken) {
  torch::manual_seed(4);
  const Routing routing = routing_of(torch::randn({37, 5}, torch::kFloat64));
  double paper = 0, swt = 0;
  for (int64_t i = 0; i < 5; ++i) {
    double chosen = 0, top = 0, all = 0;
    for (int64_t x = 0; x < 37; ++x) {
      const bool here = routing.group_ids_L[x].item<int64_t>() == i;
      chosen += here ? 1 : 0;
      top += here ? routing.top_prob_L[x].item<double>() : 0;
      all += routing.probs_LM[x][i].item<double>();
    }
    paper += chosen / 37 * top / 37;
    swt += chosen / 37 * all / 37;
  }
  // The occupancy is float32.
  EXPECT_NEAR(balance_loss(routing, BalanceForm::kPaper).item<double>(), 5 * paper, 1e-6);
  EXPECT_NEAR(balance_loss(routing, BalanceForm::kSwitch).item<double>(), 5 * swt, 1e-6);
  const Tensor occupancy = group_occupancy(routing);
  EXPECT_FALSE(occupancy.requires_grad());
  EXPECT_NEAR(occupancy.sum().item<double>(), 1.0, 1e-6);
}

TEST(BalanceLoss, GradientRunsThroughTheProbabilitiesOnly) {
  torch::manual_seed(6);
  for (const auto form : {BalanceForm::kPaper, BalanceForm::kSwitch}) {
    const Tensor scores = (torch::randn({12, 3}, torch::kFloat64) * 2).requires_grad_(true);
    // Finite differences keep the choice fixed as long as no argmax flips, so F is a constant there.
    test::expect_gradients([&] { return balance_loss(routing_of(scores), form); }, {scores});
    if (form == BalanceForm::kPaper) {
      continue;
    }
    // Descent moves probability away from the fullest group.
    const int64_t fullest = group_occupancy(routing_of(scores)).argmax().item<int64_t>();
    EXPECT_GT(scores.grad().sum(0)[fullest].item<double>(), 0);
  }
}

TEST(GroupsFromIds, KeepsTokenOrderInsideAGroup) {
  const Groups groups = groups_from_ids(torch::tensor({2, 0, 2, 1, 0, 2}, torch::kInt64), 4);
  EXPECT_TRUE(torch::equal(groups.q_index, torch::tensor({1, 4, 3, 0, 2, 5}, torch::kInt64)));
  EXPECT_TRUE(torch::equal(groups.q_offsets, torch::tensor({0, 2, 3, 6, 6}, torch::kInt64)));
  EXPECT_TRUE(torch::equal(groups.kv_index, groups.q_index));
  EXPECT_NO_THROW(groups.check(6, 6));
  EXPECT_EQ(groups.pairs(), 4 + 1 + 9);
  // A long one: an unstable sort would show here.
  const Tensor ids = torch::randint(0, 3, {5000}, torch::kInt64);
  const Groups many = groups_from_ids(ids, 3);
  for (int64_t g = 0; g < 3; ++g) {
    const Tensor mine =
        many.q_index.slice(0, many.q_offsets[g].item<int64_t>(), many.q_offsets[g + 1].item<int64_t>());
    EXPECT_TRUE(torch::equal(mine, ids.eq(g).nonzero().squeeze(1)));
  }
}

TEST(GroupsFromIds, ABatchIsItsSamplesSideBySide) {
  torch::manual_seed(2);
  const int64_t batch = 3, tokens = 20, count = 5;
  const Tensor ids = torch::randint(0, count, {batch * tokens}, torch::kInt64);
  const Groups all = groups_from_ids(ids, count, batch);
  ASSERT_EQ(all.segments(), batch * count);
  for (int64_t b = 0; b < batch; ++b) {
    const Groups one = groups_from_ids(ids.slice(0, b * tokens, (b + 1) * tokens), count);
    EXPECT_TRUE(torch::equal(all.q_index.slice(0, b * tokens, (b + 1) * tokens), one.q_index + b * tokens));
    EXPECT_TRUE(
        torch::equal(all.q_offsets.slice(0, b * count, (b + 1) * count + 1), one.q_offsets + b * tokens));
  }
}

TEST(GroupsFromIds, RefusesBadIds) {
  const auto ids = [](std::vector<int64_t> v) { return torch::tensor(v, torch::kInt64); };
  EXPECT_THROW(groups_from_ids(ids({0, 3}), 3), Error);
  EXPECT_THROW(groups_from_ids(ids({0, -1}), 3), Error);
  EXPECT_THROW(groups_from_ids(ids({0, 1, 2}), 3, 2), Error);
  EXPECT_THROW(groups_from_ids(ids({0, 1}).to(torch::kInt32), 3), Error);
  EXPECT_THROW(groups_from_ids(ids({0, 1}), 0), Error);
  EXPECT_EQ(groups_from_ids(ids({}), 3).segments(), 3);
}

TEST(ToGroups, KeepsTheLists) {
  GroupIndex index = frame_groups({3, 2, 2, {0}});
  const Groups groups = to_groups(index, torch::kCPU);
  EXPECT_EQ(groups.segments(), 3);
  EXPECT_EQ(groups.pairs(), index.pairs());
  EXPECT_NO_THROW(groups.check(12, 12));
  EXPECT_THROW(groups.check(11, 12), Error);
  EXPECT_THROW(groups.check(12, 11), Error);
  index.q_index[0] = -1;
  EXPECT_THROW(to_groups(index, torch::kCPU).check(12, 12), Error);
}

}  // namespace
}  // namespace moga
