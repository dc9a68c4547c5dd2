// How routers begin when a model with full attention becomes one with groups.
#pragma once

#include <torch/torch.h>

#include <cstdint>

#include "base/config.h"

namespace moga {

enum class RouterStart { kRandom, kKmeans };
template <>
struct EnumNames<RouterStart> {
  static constexpr std::array<std::pair<RouterStart, const char*>, 2> kNames = {
      {{RouterStart::kRandom, "random"}, {RouterStart::kKmeans, "kmeans"}}};
};

struct RouterWeights {
  torch::Tensor weight_MC;  // float32
  torch::Tensor bias_M;
};

// Small random weights, as a linear layer begins: probabilities near 1 / M, so that the routed attention is
// scaled down by M.
RouterWeights random_router(int64_t width, int64_t groups, uint64_t seed);

// Puts every token to the nearest of M centroids of `tokens_NC` (k-means++ and Lloyd's iterations): the
// scores s (2 c.x - |c|^2) are greatest for the nearest centroid, and differ from -s |x - c|^2 by the same
// amount for all groups. The scale s is found by halving in the log domain, so that the mean top probability
// over the tokens is `top_probability`: near one, because the routed attention is multiplied by it.
// Deterministic for a seed. Throws Error if there are fewer tokens than groups.
RouterWeights kmeans_router(const torch::Tensor& tokens_NC, int64_t groups, uint64_t seed,
                            double top_probability = 0.95);

}  // namespace moga
