#include "kernels/cpu/row_kernels.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <random>
#include <vector>

#include "base/error.h"
#include "kernels/cpu/grouped_attention_cpu.h"
#include "kernels/ref/row_kernels_ref.h"

namespace moga::cpu {
namespace {

std::vector<float> draw(int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(count));
  for (float& v : x) {
    v = normal(random);
  }
  return x;
}

std::vector<double> wide(const std::vector<float>& x) {
  return {x.begin(), x.end()};
}

void expect_near(const std::vector<float>& found, const std::vector<double>& expected, const char* what) {
  double error = 0;
  double largest = 1;
  for (size_t i = 0; i < expected.size(); ++i) {
    error = std::max(error, std::abs(static_cast<double>(found[i]) - expected[i]));
    largest = std::max(largest, std::abs(expected[i]));
  }
  EXPECT_LT(error / largest, 2e-6) << what;  // a few roundings, and sums of up to 600 rows
}

class RowKernels : public testing::TestWithParam<std::string> {
 public:
  void SetUp() override {
    use_attention_target(GetParam());
    ASSERT_EQ(attention_target(), GetParam());
  }
  void TearDown() override { use_attention_target(""); }
};
INSTANTIATE_TEST_SUITE_P(EveryTarget, RowKernels, testing::ValuesIn(attention_targets()),
                         [](const auto& target) { return target.param; });

TEST_P(RowKernels, ProductsWithFewRowsAgreeWithPlainLoops) {
  for (const int64_t C : {4, 20, 132, 1536}) {
    const int64_t R = 37;
    const int64_t M = 5;
    const std::vector<float> x = draw(R * C, 1), w = draw(M * C, 2), bias = draw(M, 3);
    std::vector<double> expected;
    for (int64_t r = 0; r < R; ++r) {
      for (int64_t m = 0; m < M; ++m) {
        double sum = bias[static_cast<size_t>(m)];
        for (int64_t c = 0; c < C; ++c) {
          sum += static_cast<double>(x[static_cast<size_t>(r * C + c)]) * w[static_cast<size_t>(m * C + c)];
        }
        expected.push_back(sum);
      }
    }
    std::vector<float> found(static_cast<size_t>(R * M));
    row_products(R, C, M, x.data(), w.data(), bias.data(), found.data());
    expect_near(found, expected, "products");
  }
  EXPECT_THROW(row_products(1, 6, 1, nullptr, nullptr, nullptr, nullptr), Error);
}

TEST_P(RowKernels, NormAndModulationAgreeWithTheScalarTwin) {
  for (const int64_t C : {4, 12, 20, 96, 132, 1536}) {
    const int64_t per_sample = C == 96 ? 300 : 3;  // more than a block of rows
    const int64_t R = 2 * per_sample;
    const RowShape shape = {R, C, per_sample, 1e-6F};
    const ref::RowShape twin = {R, C, per_sample, 1e-6F};
    std::vector<float> x = draw(R * C, 1);
    for (float& v : x) {
      v = 3 * v + 10;  // a mean that a sum of squares would drown in
    }
    // Rows of scale and shift inside a larger array, as the six modulations of a block are.
    const std::vector<float> modulation = draw(2 * 3 * C, 2), dy = draw(R * C, 3);
    std::vector<float> y(x.size()), dx(x.size(), NAN), dscale(static_cast<size_t>(2 * C), NAN),
        dshift(dscale);
    norm_modulate(shape, x.data(), modulation.data(), modulation.data() + C, 3 * C, y.data());
    norm_modulate_backward(shape, x.data(), modulation.data(), 3 * C, dy.data(), dx.data(), dscale.data(),
                           dshift.data());
    std::vector<double> scale, shift;
    for (int64_t s = 0; s < 2; ++s) {
      scale.insert(scale.end(), modulation.begin() + s * 3 * C, modulation.begin() + s * 3 * C + C);
      shift.insert(shift.end(), modulation.begin() + s * 3 * C + C, modulation.begin() + s * 3 * C + 2 * C);
    }
    std::vector<double> y2(x.size()), dx2(x.size()), dscale2(scale.size()), dshift2(scale.size());
    ref::norm_modulate(twin, wide(x).data(), scale.data(), shift.data(), y2.data());
    ref::norm_modulate_backward(twin, wide(x).data(), scale.data(), wide(dy).data(), dx2.data(),
                                dscale2.data(), dshift2.data());
    expect_near(y, y2, "y");
    expect_near(dx, dx2, "dx");
    expect_near(dscale, dscale2, "dscale");
    expect_near(dshift, dshift2, "dshift");
  }
}

TEST_P(RowKernels, NormAndRotationAgreeWithTheScalarTwin) {
  for (const int64_t dim : {4, 12, 16, 40, 128}) {
    for (const bool turned : {true, false}) {
      const int64_t C = 3 * dim, per_sample = dim == 16 ? 300 : 4, R = 2 * per_sample;
      const RowShape shape = {R, C, per_sample, 1e-6F};
      const ref::RowShape twin = {R, C, per_sample, 1e-6F};
      const std::vector<float> x = draw(R * C, 1), weight = draw(C, 2), dy = draw(R * C, 3);
      std::vector<float> cos = draw(per_sample * dim / 2, 4), sin = cos;
      for (size_t i = 0; i < cos.size(); ++i) {
        sin[i] = turned ? std::sin(cos[i]) : 0.0F;
        cos[i] = turned ? std::cos(cos[i]) : 1.0F;
      }
      std::vector<float> y(x.size()), dx(x.size(), NAN), dweight(weight.size(), NAN);
      const float* c = turned ? cos.data() : nullptr;
      const float* s = turned ? sin.data() : nullptr;
      rms_norm_rope(shape, dim, x.data(), weight.data(), c, s, y.data());
      rms_norm_rope_backward(shape, dim, x.data(), weight.data(), c, s, dy.data(), dx.data(), dweight.data());
      std::vector<double> y2(x.size()), dx2(x.size()), dweight2(weight.size());
      ref::rms_norm_rope(twin, dim, wide(x).data(), wide(weight).data(), wide(cos).data(), wide(sin).data(),
                         y2.data());
      ref::rms_norm_rope_backward(twin, dim, wide(x).data(), wide(weight).data(), wide(cos).data(),
                                  wide(sin).data(), wide(dy).data(), dx2.data(), dweight2.data());
      expect_near(y, y2, "y");
      expect_near(dx, dx2, "dx");
      expect_near(dweight, dweight2, "dweight");
    }
  }
}

// The scalar twins' gradients themselves, by central differences in double.
TEST(RowKernelsRef, GradientsAgreeWithFiniteDifferences) {
  constexpr int64_t kR = 4, kC = 8, kDim = 4;
  const ref::RowShape shape = {kR, kC, 2, 1e-3};
  std::vector<double> x = wide(draw(kR * kC, 1)), scale = wide(draw(2 * kC, 2)),
                      shift = wide(draw(2 * kC, 3));
  std::vector<double> weight = wide(draw(kC, 4)), dy = wide(draw(kR * kC, 5));
  std::vector<double> cos = wide(draw(2 * kDim / 2, 6)), sin = cos;
  for (size_t i = 0; i < cos.size(); ++i) {
    sin[i] = std::sin(cos[i]);
    cos[i] = std::cos(cos[i]);
  }
  std::vector<double> y(x.size()), dx(x.size()), dscale(scale.size()), dshift(scale.size()), dweight(kC);
  const auto dot = [&] {
    double sum = 0;
    for (size_t i = 0; i < y.size(); ++i) {
      sum += y[i] * dy[i];
    }
    return sum;
  };
  const auto expect_gradient = [&](std::vector<double>& leaf, const std::vector<double>& grad,
                                   const auto& run) {
    for (size_t i = 0; i < leaf.size(); ++i) {
      const double kept = leaf[i];
      constexpr double kStep = 1e-5;
      leaf[i] = kept + kStep;
      run();
      const double above = dot();
      leaf[i] = kept - kStep;
      run();
      const double below = dot();
      leaf[i] = kept;
      EXPECT_NEAR(grad[i], (above - below) / (2 * kStep), 1e-7) << i;
    }
  };
  ref::norm_modulate_backward(shape, x.data(), scale.data(), dy.data(), dx.data(), dscale.data(),
                              dshift.data());
  const auto norm = [&] { ref::norm_modulate(shape, x.data(), scale.data(), shift.data(), y.data()); };
  expect_gradient(x, dx, norm);
  expect_gradient(scale, dscale, norm);
  expect_gradient(shift, dshift, norm);
  ref::rms_norm_rope_backward(shape, kDim, x.data(), weight.data(), cos.data(), sin.data(), dy.data(),
                              dx.data(), dweight.data());
  const auto rope = [&] {
    ref::rms_norm_rope(shape, kDim, x.data(), weight.data(), cos.data(), sin.data(), y.data());
  };
  expect_gradient(x, dx, rope);
  expect_gradient(weight, dweight, rope);
}

TEST(RowKernelsErrors, OddShapesAreRefused) {
  std::vector<float> x(64);
  EXPECT_THROW(norm_modulate({2, 6, 1, 0}, x.data(), x.data(), x.data(), 6, x.data()), Error);
  EXPECT_THROW(norm_modulate({3, 8, 2, 0}, x.data(), x.data(), x.data(), 8, x.data()), Error);
  EXPECT_THROW(rms_norm_rope({2, 16, 1, 0}, 12, x.data(), x.data(), nullptr, nullptr, x.data()), Error);
}

}  // namespace
}  // namespace moga::cpu
