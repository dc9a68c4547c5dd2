// The kernels of kernels/cuda/row_ops.h against libtorch in float64. Skipped where there is no GPU.
#include "model/device_row_ops.h"

#include <gtest/gtest.h>

#include "attention/torch_compat.h"
#include "model/row_ops.h"

namespace moga {
namespace {

using torch::Tensor;

double device_error(const Tensor& found, const Tensor& exact) {
  const Tensor wide = found.to(torch::kCPU, torch::kFloat64);
  return ((wide - exact).norm() / exact.norm()).item<double>();
}

Tensor norm64(const Tensor& x, double eps) {
  return torch::layer_norm(x.to(torch::kFloat64), {x.size(-1)}, {}, {}, eps);
}

class DeviceRowOps : public testing::Test {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) {
      GTEST_SKIP() << "no GPU";
    }
    torch::manual_seed(3);
  }
};

// Rounding to the type that comes out, or of float32 arithmetic.
double device_bound(torch::ScalarType type) {
  return type == torch::kFloat32 ? 1e-6 : type == torch::kFloat16 ? 5e-4 : 4e-3;
}

TEST_F(DeviceRowOps, NormsOfEveryTypeAndWidth) {
  for (const int64_t C : {8, 48, 1536, 2048, 5120, 8192}) {
    const Tensor x = torch::randn({2, 5, C}) * 3 + 1;
    const Tensor six = torch::randn({2, 6, C});
    const auto m = six.chunk(6, 1);
    for (const auto from : {torch::kFloat32, torch::kFloat16, torch::kBFloat16}) {
      for (const auto to : {torch::kFloat32, torch::kFloat16, torch::kBFloat16}) {
        const Tensor given = x.to(from);
        ASSERT_TRUE(device_takes_rows(given.cuda()));
        const Tensor n = norm64(given, 1e-6);
        const auto gpu_m = six.cuda().chunk(6, 1);
        const Tensor y = device_norm_modulate(given.cuda(), gpu_m[4], gpu_m[3], 1, 1e-6, to);
        EXPECT_EQ(y.scalar_type(), to);
        EXPECT_LT(device_error(y, n * (1 + m[4]) + m[3]), device_bound(to)) << C << " " << from << " " << to;
        const Tensor w = six[0][1], b = six[0][2];
        const Tensor z = device_norm_modulate(given.cuda(), w.cuda(), b.cuda(), 0, 1e-6, to);
        EXPECT_LT(device_error(z, n * w + b), device_bound(to)) << C << " " << from << " " << to;
      }
    }
  }
}

TEST_F(DeviceRowOps, RotatedNormsOfEveryTypeAndHeadSize) {
  FilmLayout layout{3, 2, 2, {}};
  for (const auto& [heads, D] : {std::pair<int64_t, int64_t>{12, 128}, {40, 128}, {6, 64}, {3, 16}}) {
    const Tensor x = torch::randn({2, layout.tokens(), heads * D}) * 2;
    const Tensor weight = torch::rand({heads * D}) + 0.5;
    for (const auto from : {torch::kFloat32, torch::kBFloat16}) {
      for (const auto to : {torch::kFloat32, torch::kFloat16, torch::kBFloat16}) {
        for (const bool turned : {false, true}) {
          const RopeTable exact_table = rope_table(layout, D, torch::kFloat64, torch::kCPU);
          const RopeTable table = rope_table(layout, D, torch::kFloat32, torch::kCUDA);
          const Tensor given = x.to(from);
          const Tensor exact = norm_rope(given.to(torch::kFloat64), weight.to(torch::kFloat64), 1e-6, heads,
                                         turned ? &exact_table : nullptr);
          const Tensor y =
              device_norm_rope(given.cuda(), weight.cuda(), 1e-6, heads, turned ? &table : nullptr, to);
          EXPECT_EQ(y.scalar_type(), to);
          EXPECT_LT(device_error(y, exact), device_bound(to)) << heads << " " << D << " " << turned;
        }
      }
    }
  }
}

// Through row_ops.h: the kernels forward, libtorch's operations backward.
TEST_F(DeviceRowOps, GradientsAreThoseOfFloat64) {
  FilmLayout layout{2, 2, 3, {}};
  const Tensor x = torch::randn({2, layout.tokens(), 48}) * 3 + 1;
  const Tensor six = torch::randn({2, 6, 48});
  const Tensor weight = torch::rand({48}) + 0.5;
  const Tensor mix = torch::randn_like(x);
  std::vector<Tensor> found, wanted;
  for (const auto device : {torch::kCUDA, torch::kCPU}) {
    const auto type = device == torch::kCPU ? torch::kFloat64 : torch::kFloat32;
    const auto leaf = [&](const Tensor& value) { return value.to(device, type).requires_grad_(true); };
    const RopeTable table = rope_table(layout, 16, type, device);
    const Tensor a = leaf(x), m = leaf(six), w = leaf(weight);
    const auto rows = m.chunk(6, 1);
    const Tensor y = modulated_norm(a, rows[0], rows[1], 1e-6) + norm_rope(a, w, 1e-6, 3, &table) +
                     affine_norm(a, w, m[0][2], 1e-6) + norm_rope(a, w, 1e-6, 1, nullptr);
    (y * mix.to(device, type)).sum().backward();
    for (const Tensor& value : {y, a.grad(), m.grad(), w.grad()}) {
      (device == torch::kCUDA ? found : wanted).push_back(value.detach().to(torch::kCPU, torch::kFloat64));
    }
  }
  for (size_t i = 0; i < found.size(); ++i) {
    EXPECT_LT(device_error(found[i], wanted[i]), 3e-6) << i;
  }
}

TEST_F(DeviceRowOps, AutocastDecidesWhatComesOut) {
  const Tensor x = torch::randn({1, 4, 64}).cuda();
  const Tensor rows = torch::randn({1, 1, 64}).cuda();
  EXPECT_EQ(modulated_norm(x, rows, rows, 1e-6).scalar_type(), torch::kFloat32);
  const compat::Autocast autocast(torch::kCUDA, torch::kBFloat16);
  const bool kernels = device_takes_rows(x);
  EXPECT_EQ(modulated_norm(x, rows, rows, 1e-6).scalar_type(), kernels ? torch::kBFloat16 : torch::kFloat32);
  EXPECT_EQ(gated_sum(x, rows, x.to(torch::kBFloat16)).scalar_type(), torch::kFloat32);
}

}  // namespace
}  // namespace moga
