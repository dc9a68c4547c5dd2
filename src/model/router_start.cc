#include "model/router_start.h"

#include <cmath>

#include "base/error.h"

namespace moga {

using torch::Tensor;

namespace {

constexpr int kIterations = 30;

// Squared distances [N, M].
Tensor distances(const Tensor& x_NC, const Tensor& centre_MC) {
  return (x_NC.square().sum(1, true) - 2 * torch::mm(x_NC, centre_MC.t()) + centre_MC.square().sum(1))
      .clamp_min_(0);
}

// k-means++ (Arthur and Vassilvitskii 2007): each next centroid is a token, likelier the farther it is.
Tensor first_centroids(const Tensor& x_NC, int64_t groups, at::Generator& generator) {
  std::vector<Tensor> chosen = {x_NC[torch::randint(x_NC.size(0), {1}, generator).item<int64_t>()]};
  while (static_cast<int64_t>(chosen.size()) < groups) {
    const Tensor nearest = std::get<0>(distances(x_NC, torch::stack(chosen)).min(1));
    // Equal tokens have no distance left; any will do then.
    const Tensor weight = nearest.sum().item<float>() > 0 ? nearest : torch::ones_like(nearest);
    chosen.push_back(x_NC[torch::multinomial(weight, 1, false, generator).item<int64_t>()]);
  }
  return torch::stack(chosen);
}

double mean_top_probability(const Tensor& scores_NM, double scale) {
  return std::get<0>(torch::softmax(scores_NM * scale, 1).max(1)).mean().item<double>();
}

}  // namespace

RouterWeights random_router(int64_t width, int64_t groups, uint64_t seed) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  const double bound = 1 / std::sqrt(static_cast<double>(width));
  const auto uniform = [&](torch::IntArrayRef shape) {
    return (torch::rand(shape, generator) * 2 - 1) * bound;
  };
  return {uniform({groups, width}), uniform({groups})};
}

RouterWeights kmeans_router(const Tensor& tokens_NC, int64_t groups, uint64_t seed, double top_probability) {
  const torch::NoGradGuard guard;
  MOGA_CHECK(tokens_NC.dim() == 2 && tokens_NC.size(0) >= groups && groups > 0,
             "k-means: {} groups need at least as many tokens, found {}", groups, tokens_NC.size(0));
  at::Generator generator = at::detail::createCPUGenerator(seed);
  const Tensor x_NC = tokens_NC.to(torch::kCPU, torch::kFloat32);
  Tensor centre_MC = first_centroids(x_NC, groups, generator);
  for (int i = 0; i < kIterations; ++i) {
    const Tensor nearest_N = distances(x_NC, centre_MC).argmin(1);
    const Tensor sum_MC = torch::zeros_like(centre_MC).index_add_(0, nearest_N, x_NC);
    const Tensor count_M = torch::bincount(nearest_N, {}, groups).to(torch::kFloat32).unsqueeze(1);
    const Tensor moved_MC = torch::where(count_M > 0, sum_MC / count_M.clamp_min(1), centre_MC);
    const bool settled = moved_MC.equal(centre_MC);
    centre_MC = moved_MC;
    if (settled) {
      break;
    }
  }
  const Tensor weight_MC = 2 * centre_MC;
  const Tensor bias_M = -centre_MC.square().sum(1);
  const Tensor scores_NM = torch::addmm(bias_M, x_NC, weight_MC.t());
  // The top probability grows with the scale; its logarithm is halved because scales differ by orders of
  // magnitude between blocks.
  double low = -20;
  double high = 20;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (mean_top_probability(scores_NM, std::exp(middle)) < top_probability ? low : high) = middle;
  }
  const double scale = std::exp(high);
  return {weight_MC * scale, bias_M * scale};
}

}  // namespace moga
