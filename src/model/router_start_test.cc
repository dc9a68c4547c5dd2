#include "model/router_start.h"

#include <gtest/gtest.h>

#include "attention/router.h"
#include "base/error.h"

namespace moga {
namespace {

Routing route(const RouterWeights& weights, const torch::Tensor& x) {
  const torch::NoGradGuard guard;
  Router router(x.size(1), weights.bias_M.size(0));
  router->named_parameters()["weight"].copy_(weights.weight_MC);
  router->named_parameters()["bias"].copy_(weights.bias_M);
  return router->forward(x);
}

// Three clouds of unequal size, far from each other and from the origin.
struct Clouds {
  torch::Tensor x_NC;
  torch::Tensor cloud_N;
};
Clouds clouds() {
  torch::manual_seed(3);
  const torch::Tensor cloud_N =
      torch::cat({torch::zeros({300}), torch::ones({90}), torch::full({60}, 2)}).to(torch::kInt64);
  const torch::Tensor centre_MC = torch::randn({3, 16}) * 3 + 5;
  return {centre_MC.index_select(0, cloud_N) + torch::randn({450, 16}), cloud_N};
}

TEST(RouterStart, KmeansFindsCloudsAndIsSureOfThem) {
  const Clouds data = clouds();
  const Routing routing = route(kmeans_router(data.x_NC, 3, 1), data.x_NC);
  // Same cloud, same group; other cloud, other group.
  const auto same_cloud = data.cloud_N.unsqueeze(0).eq(data.cloud_N.unsqueeze(1));
  const auto same_group = routing.group_ids_L.unsqueeze(0).eq(routing.group_ids_L.unsqueeze(1));
  EXPECT_GT(same_cloud.eq(same_group).to(torch::kFloat32).mean().item<float>(), 0.99);
  EXPECT_NEAR(routing.top_prob_L.mean().item<double>(), 0.95, 1e-3);
  const Routing random = route(random_router(16, 3, 1), data.x_NC);
  EXPECT_LT(random.top_prob_L.mean().item<double>(), 0.9);
}

TEST(RouterStart, GroupsAreTheNearestCentroids) {
  const Clouds data = clouds();
  const RouterWeights weights = kmeans_router(data.x_NC, 4, 2);
  // weight = 2 s c and bias = -s |c|^2 give back s and c.
  const torch::Tensor square = weights.weight_MC.square().sum(1);  // 4 s^2 |c|^2
  const double s = (square / (-4 * weights.bias_M)).mean().item<double>();
  const torch::Tensor centre_MC = weights.weight_MC / (2 * s);
  const torch::Tensor nearest = torch::cdist(data.x_NC, centre_MC).argmin(1);
  EXPECT_TRUE(route(weights, data.x_NC).group_ids_L.equal(nearest));
}

TEST(RouterStart, SameSeedSameRouterAndDegenerateTokens) {
  const Clouds data = clouds();
  EXPECT_TRUE(kmeans_router(data.x_NC, 3, 5).weight_MC.equal(kmeans_router(data.x_NC, 3, 5).weight_MC));
  const RouterWeights same = kmeans_router(torch::ones({10, 4}), 3, 1);
  EXPECT_TRUE(torch::isfinite(same.weight_MC).all().item<bool>());
  EXPECT_THROW(kmeans_router(torch::ones({2, 4}), 3, 1), Error);
}

}  // namespace
}  // namespace moga
