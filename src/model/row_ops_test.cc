// Fused row operations (float32 on a CPU) against libtorch's own in float64, values and gradients.
#include "model/row_ops.h"

#include <gtest/gtest.h>

#include "attention/film_layout.h"

namespace moga {
namespace {

using torch::Tensor;

double row_ops_error(const Tensor& fused, const Tensor& exact) {
  const Tensor wide = fused.to(torch::kFloat64);
  return ((wide - exact).norm() / exact.norm().clamp_min(1e-30)).item<double>();
}

Tensor leaf(const Tensor& x, torch::ScalarType type) {
  return x.detach().to(type).clone().requires_grad_(true);
}

TEST(RowOps, ModulatedNormAndItsGradientsAreThoseOfFloat64) {
  torch::manual_seed(3);
  const Tensor x = torch::randn({2, 7, 48}) * 3 + 1;
  const Tensor six = torch::randn({2, 6, 48});  // shift and scale are rows of a larger tensor, as in a block
  const Tensor weight = torch::randn({2, 7, 48});
  std::vector<Tensor> found, wanted;
  for (const auto type : {torch::kFloat32, torch::kFloat64}) {
    const Tensor a = leaf(x, type), m = leaf(six, type);
    const auto rows = m.chunk(6, 1);
    const Tensor y = modulated_norm(a, rows[3], rows[4], 1e-6);
    (y * weight.to(type)).sum().backward();
    (type == torch::kFloat32 ? found : wanted) = std::vector<Tensor>{y, a.grad(), m.grad()};
  }
  for (size_t i = 0; i < found.size(); ++i) {
    EXPECT_LT(row_ops_error(found[i], wanted[i]), 1e-6) << i;
  }
}

TEST(RowOps, GeluAndItsGradientAreThoseOfFloat64) {
  torch::manual_seed(5);
  const Tensor x = torch::randn({3, 5, 7}).transpose(0, 2) * 3;  // not contiguous
  const Tensor weight = torch::randn({7, 5, 3});
  std::vector<Tensor> found, wanted;
  for (const auto type : {torch::kFloat32, torch::kFloat64}) {
    const Tensor a = leaf(x, type);
    const Tensor y = gelu_tanh(a);
    (y * weight.to(type)).sum().backward();
    (type == torch::kFloat32 ? found : wanted) = std::vector<Tensor>{y, a.grad()};
  }
  for (size_t i = 0; i < found.size(); ++i) {
    EXPECT_LT(row_ops_error(found[i], wanted[i]), 1e-6) << i;
  }
}

TEST(RowOps, GeluTakesItsInputsPlaceWithoutGradients) {
  torch::manual_seed(5);
  for (const auto type : {torch::kFloat32, torch::kBFloat16}) {
    const Tensor x = torch::randn({5, 7}).to(type);
    const Tensor wanted = gelu_tanh(x);
    const Tensor recorded = gelu_tanh_of_own(x.clone().requires_grad_(true) * 1);
    EXPECT_TRUE(recorded.requires_grad());
    EXPECT_TRUE(recorded.equal(wanted));
    const torch::NoGradGuard none;
    const Tensor own = x.clone();
    const Tensor y = gelu_tanh_of_own(own);
    EXPECT_TRUE(y.equal(wanted));
    EXPECT_EQ(y.data_ptr(), own.data_ptr());
    EXPECT_TRUE(gelu_tanh_of_own(x.clone().t()).equal(wanted.t()));
  }
}

TEST(RowOps, NormAndRotationAndTheirGradientsAreThoseOfFloat64) {
  torch::manual_seed(4);
  FilmLayout layout;
  layout.frames = 2;
  layout.rows = 2;
  layout.cols = 3;
  constexpr int64_t kHeads = 3;
  constexpr int64_t kDim = 16;
  const Tensor x = torch::randn({2, layout.tokens(), kHeads * kDim}) * 2;
  const Tensor weight = torch::rand({kHeads * kDim}) + 0.5;
  const Tensor mix = torch::randn_like(x);
  for (const bool turned : {false, true}) {
    std::vector<Tensor> found, wanted;
    for (const auto type : {torch::kFloat32, torch::kFloat64}) {
      const RopeTable table = rope_table(layout, kDim, type, torch::kCPU);
      const Tensor a = leaf(x, type), w = leaf(weight, type);
      const Tensor y = norm_rope(a, w, 1e-6, turned ? kHeads : 1, turned ? &table : nullptr);
      (y * mix.to(type)).sum().backward();
      (type == torch::kFloat32 ? found : wanted) = std::vector<Tensor>{y, a.grad(), w.grad()};
    }
    for (size_t i = 0; i < found.size(); ++i) {
      EXPECT_LT(row_ops_error(found[i], wanted[i]), 1e-6) << turned << " " << i;
    }
  }
}

}  // namespace
}  // namespace moga
