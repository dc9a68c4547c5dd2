// Shared by the tests of this folder.
#pragma once

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>
#include <random>
#include <string>
#include <vector>

#include "attention/groups.h"
#include "distributed/device_test_util.h"

namespace moga::test {

inline Groups on_device(Groups groups, torch::Device device) {
  groups.q_index = groups.q_index.to(device);
  groups.kv_index = groups.kv_index.to(device);
  groups.plan_cache.reset();
  return groups;
}

struct Leaves {
  torch::Tensor q, k, v, row_scale;

  Leaves() = default;
  Leaves(int64_t tokens, int64_t keys, int64_t heads, int64_t dim, int seed) {
    torch::manual_seed(static_cast<uint64_t>(seed));
    const auto leaf = [](at::IntArrayRef sizes) {
      return torch::randn(sizes, torch::kFloat64).to(test_device()).requires_grad_(true);
    };
    q = leaf({tokens, heads, dim});
    k = leaf({keys, heads, dim});
    v = leaf({keys, heads, dim});
    row_scale = leaf({tokens});
  }
  Leaves as(torch::ScalarType type) const { return to(q.device(), type); }
  Leaves on(torch::Device device) const { return to(device, q.scalar_type()); }
  Leaves to(torch::Device device, torch::ScalarType type) const {
    Leaves other;
    const auto cast = [&](const torch::Tensor& x) {
      return x.detach().to(device, type).clone().requires_grad_(true);
    };
    other.q = cast(q);
    other.k = cast(k);
    other.v = cast(v);
    other.row_scale = cast(row_scale);
    return other;
  }
};

// Segments of 0 to 7 entries a side, drawn with repetition: empty, single, overlapping and missing tokens all
// occur.
inline Groups random_groups(int64_t tokens, int64_t keys, int seed) {
  std::mt19937 random(static_cast<unsigned>(seed));
  const auto below = [&random](int64_t n) {
    return static_cast<int64_t>(random() % static_cast<uint64_t>(n));
  };
  GroupIndex index;
  const int64_t segments = 2 + below(6);
  for (int64_t s = 0; s < segments; ++s) {
    for (int64_t i = below(8); i > 0; --i) {
      index.q_index.push_back(below(tokens));
    }
    for (int64_t i = below(8); i > 0; --i) {
      index.kv_index.push_back(below(keys));
    }
    index.q_offsets.push_back(static_cast<int64_t>(index.q_index.size()));
    index.kv_offsets.push_back(static_cast<int64_t>(index.kv_index.size()));
  }
  // At least one full pair, so that no case is empty by chance.
  index.q_index.push_back(below(tokens));
  index.kv_index.push_back(below(keys));
  index.q_offsets.push_back(static_cast<int64_t>(index.q_index.size()));
  index.kv_offsets.push_back(static_cast<int64_t>(index.kv_index.size()));
  return to_groups(index, test_device());
}

// Compares backward() of the float64 scalar loss() with central differences in every element of every leaf.
inline void expect_gradients(const std::function<torch::Tensor()>& loss,
                             const std::vector<torch::Tensor>& leaves) {
  for (const torch::Tensor& leaf : leaves) {
    leaf.mutable_grad() = torch::Tensor();
  }
  loss().backward();
  const torch::NoGradGuard guard;
  constexpr double kStep = 1e-5;
  for (size_t l = 0; l < leaves.size(); ++l) {
    ASSERT_TRUE(leaves[l].grad().defined()) << "leaf " << l;
    const torch::Tensor flat = leaves[l].view({-1});
    const torch::Tensor grad = leaves[l].grad().reshape({-1});
    for (int64_t i = 0; i < flat.numel(); ++i) {
      const double kept = flat[i].item<double>();
      flat[i] = kept + kStep;
      const double above = loss().item<double>();
      flat[i] = kept - kStep;
      const double below = loss().item<double>();
      flat[i] = kept;
      EXPECT_NEAR(grad[i].item<double>(), (above - below) / (2 * kStep), 1e-7)
          << "leaf " << l << " element " << i;
    }
  }
}

}  // namespace moga::test
