// The fused path of a GPU against the float64 path of the CPU. Skipped where there is no GPU.
#include "attention/fused_attention.h"

#include <gtest/gtest.h>

#include <array>

#include "attention/static_groups.h"
#include "attention/test_util.h"
#include "attention/torch_compat.h"

namespace moga {
namespace {

using torch::Tensor;

// Outputs and gradients of bfloat16 on the GPU against float64 of the same rounded numbers on the CPU.
void expect_like_cpu(const Groups& groups, int64_t tokens, int64_t keys, int64_t dim, int seed) {
  const test::Leaves rounded = test::Leaves(tokens, keys, 3, dim, seed).as(torch::kBFloat16);
  const test::Leaves exact = rounded.to(torch::kCPU, torch::kFloat64);
  test::Leaves gpu = rounded;
  for (Tensor* leaf : {&gpu.q, &gpu.k, &gpu.v, &gpu.row_scale}) {
    *leaf = leaf->detach().to(torch::kCUDA).requires_grad_(true);
  }
  const Groups on_gpu = test::on_device(groups, torch::kCUDA);
  ASSERT_TRUE(can_fuse_attention(gpu.q, gpu.k, on_gpu));
  const AttentionOutput a = grouped_attention(exact.q, exact.k, exact.v, groups, exact.row_scale);
  const AttentionOutput b = grouped_attention(gpu.q, gpu.k, gpu.v, on_gpu, gpu.row_scale);
  const Tensor weight = torch::randn_like(a.out_LND);
  (a.out_LND * weight).sum().backward();
  (b.out_LND * weight.to(torch::kCUDA)).sum().backward();
  const auto near = [&](const Tensor& x, const Tensor& y, const char* what) {
    const Tensor host = y.detach().to(torch::kCPU, torch::kFloat64);
    const Tensor finite = torch::isfinite(x);
    EXPECT_TRUE(finite.equal(torch::isfinite(host))) << what;
    const double size = x.masked_select(finite).abs().max().item<double>();
    const double error = (x - host).masked_select(finite).abs().max().item<double>();
    EXPECT_LE(error, 0.03 * size + 1e-3) << what << ", head size " << dim << ", seed " << seed;
  };
  near(a.out_LND, b.out_LND, "out");
  near(a.lse_QN, b.lse_QN, "log-sum-exp");
  near(exact.q.grad(), gpu.q.grad(), "dq");
  near(exact.k.grad(), gpu.k.grad(), "dk");
  near(exact.v.grad(), gpu.v.grad(), "dv");
  near(exact.row_scale.grad(), gpu.row_scale.grad(), "row scale gradient");
}

TEST(FusedAttention, MatchesTheCpuOnRandomGroups) {
  if (!torch::cuda::is_available()) {
    GTEST_SKIP() << "no GPU";
  }
  for (int seed = 0; seed < 12; ++seed) {
    const int64_t dim = std::array<int64_t, 4>{16, 32, 64, 128}.at(static_cast<size_t>(seed) % 4);
    expect_like_cpu(test::on_device(test::random_groups(13, 11, seed), torch::kCPU), 13, 11, dim, seed);
  }
}

TEST(FusedAttention, MatchesTheCpuOnFramesWindowsAndRoutedGroups) {
  if (!torch::cuda::is_available()) {
    GTEST_SKIP() << "no GPU";
  }
  const FilmLayout layout{7, 5, 8, {0, 3}};
  const int64_t L = layout.tokens();
  expect_like_cpu(to_groups(frame_groups(layout), torch::kCPU), L, L, 32, 1);
  expect_like_cpu(to_groups(window_groups(layout, {}), torch::kCPU), L, L, 32, 2);
  torch::manual_seed(3);
  const Tensor ids = torch::randint(0, 5, {L}, torch::kInt64);
  expect_like_cpu(groups_from_ids(ids, 5, 2), L, L, 64, 3);

  const Groups cpu = groups_from_ids(ids, 5, 2);
  const Groups gpu = groups_from_ids(ids.to(torch::kCUDA), 5, 2);
  EXPECT_TRUE(gpu.q_offsets.is_cuda());
  EXPECT_TRUE(gpu.q_index.cpu().equal(cpu.q_index));
  EXPECT_TRUE(gpu.q_offsets.cpu().equal(cpu.q_offsets));
}

struct ForcedBackend {
  explicit ForcedBackend(FusedBackend backend) { force_backend(backend); }
  ~ForcedBackend() { force_backend(std::nullopt); }
  ForcedBackend(const ForcedBackend&) = delete;
  ForcedBackend& operator=(const ForcedBackend&) = delete;
};

// Sizes that differ, among them an empty group and one of a single token. A backend that has no backward pass
// for them is compared in inference alone.
TEST(FusedAttention, EveryBackendMatchesTheCpuOnUnevenGroups) {
  if (!torch::cuda::is_available()) {
    GTEST_SKIP() << "no GPU";
  }
  torch::manual_seed(4);
  Tensor ids = torch::randint(0, 4, {700}, torch::kInt64).clamp_max_(2);
  ids[350] = 4;  // 3 stays empty
  const FilmLayout layout{7, 5, 8, {0, 3}};
  for (const auto& [backend, name] : EnumNames<FusedBackend>::kNames) {
    SCOPED_TRACE(name);
    const ForcedBackend forced(backend);
    for (const int64_t dim : {64, 128}) {
      const Groups groups = groups_from_ids(ids, 5, 1);
      expect_like_cpu(groups, 700, 700, dim, 4);
      expect_like_cpu(to_groups(frame_groups(layout), torch::kCPU), 280, 280, dim, 5);

      const torch::NoGradGuard inference;  // without the log-sum-exp, kernels may differ
      const test::Leaves leaves = test::Leaves(700, 700, 3, dim, 6).as(torch::kBFloat16);
      const auto attend = [&](const torch::Device device, torch::ScalarType type) {
        return grouped_attention(leaves.q.to(device, type), leaves.k.to(device, type),
                                 leaves.v.to(device, type),
                                 device.is_cuda() ? test::on_device(groups, torch::kCUDA) : groups,
                                 leaves.row_scale.to(device, type))
            .out_LND.to(torch::kCPU, torch::kFloat64);
      };
      const Tensor expected = attend(torch::kCPU, torch::kFloat64);
      const Tensor found = attend(torch::kCUDA, torch::kBFloat16);
      EXPECT_LE((found - expected).abs().max().item<double>(), 0.03 * expected.abs().max().item<double>());
    }
  }
}

TEST(Autocast, CastsTheInputsOfGroupedAttention) {
  const Groups groups = test::random_groups(9, 9, 5);
  const test::Leaves leaves = test::Leaves(9, 9, 2, 16, 5).as(torch::kFloat32);
  const auto attend = [&] {
    return grouped_attention(leaves.q, leaves.k, leaves.v, groups, leaves.row_scale).out_LND;
  };
  const Tensor exact = attend();
  {
    const compat::Autocast autocast(test_device(), torch::kBFloat16);
    const Tensor out = attend();
    EXPECT_EQ(out.scalar_type(), torch::kBFloat16);
    EXPECT_LE((out - exact).abs().max().item<double>(), 0.05 * exact.abs().max().item<double>());
  }
  EXPECT_EQ(attend().scalar_type(), torch::kFloat32);
}

}  // namespace
}  // namespace moga
