#include "kernels/cpu/matrix_product.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace moga::cpu {
namespace {

using Values = std::vector<float>;

Values random_values(int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Values values(static_cast<size_t>(count));
  for (float& value : values) {
    value = normal(random);
  }
  return values;
}

struct Sizes {
  int64_t rows;
  int64_t inner;
  int64_t cols;
};

// Sums of `inner` products of numbers around 1, one rounding each, in any order. Products in bfloat16 or TF32
// are off by ten times as much or more.
double bound(const Sizes& s) {
  return 3e-8 * std::pow(static_cast<double>(s.inner), 1.5) + 1e-6;
}

class MatrixProduct : public testing::TestWithParam<Sizes> {
 protected:
  void SetUp() override {
    if (product_library().empty()) {
      GTEST_SKIP() << "this build has no oneDNN";
    }
  }

  // Of a (r, k) and b (k, c), in float64: largest difference from `found`.
  template <class A, class B, class C>
  static double worst(const Sizes& s, const Values& found, const A& a, const B& b, const C& start) {
    double most = 0;
    for (int64_t r = 0; r < s.rows; ++r) {
      for (int64_t c = 0; c < s.cols; ++c) {
        double sum = start(c);
        for (int64_t k = 0; k < s.inner; ++k) {
          sum += static_cast<double>(a(r, k)) * static_cast<double>(b(k, c));
        }
        most = std::max(most, std::abs(sum - found[static_cast<size_t>(r * s.cols + c)]));
      }
    }
    return most;
  }
};

TEST_P(MatrixProduct, OfALayerWithAndWithoutBias) {
  const Sizes s = GetParam();
  const Values x = random_values(s.rows * s.inner, 1), weight = random_values(s.cols * s.inner, 2);
  const Values bias = random_values(s.cols, 3);
  Values y(static_cast<size_t>(s.rows * s.cols), NAN);
  const auto x_at = [&](int64_t r, int64_t k) { return x[static_cast<size_t>(r * s.inner + k)]; };
  const auto w_at = [&](int64_t k, int64_t c) { return weight[static_cast<size_t>(c * s.inner + k)]; };
  linear(x.data(), weight.data(), bias.data(), s.rows, s.inner, s.cols, y.data());
  EXPECT_LT(worst(s, y, x_at, w_at, [&](int64_t c) { return bias[static_cast<size_t>(c)]; }), bound(s));
  linear(x.data(), weight.data(), nullptr, s.rows, s.inner, s.cols, y.data());
  EXPECT_LT(worst(s, y, x_at, w_at, [](int64_t) { return 0.0; }), bound(s));
}

TEST_P(MatrixProduct, TurnedAndNot) {
  const Sizes s = GetParam();
  const Values a = random_values(s.rows * s.inner, 1), b = random_values(s.inner * s.cols, 2);
  Values c(static_cast<size_t>(s.rows * s.cols), NAN);
  const auto b_at = [&](int64_t k, int64_t j) { return b[static_cast<size_t>(k * s.cols + j)]; };
  const auto nothing = [](int64_t) { return 0.0; };
  multiply(a.data(), false, b.data(), s.rows, s.inner, s.cols, c.data());
  EXPECT_LT(
      worst(
          s, c, [&](int64_t r, int64_t k) { return a[static_cast<size_t>(r * s.inner + k)]; }, b_at, nothing),
      bound(s));
  multiply(a.data(), true, b.data(), s.rows, s.inner, s.cols, c.data());
  EXPECT_LT(
      worst(
          s, c, [&](int64_t r, int64_t k) { return a[static_cast<size_t>(k * s.rows + r)]; }, b_at, nothing),
      bound(s));
}

TEST_P(MatrixProduct, TheSameThreadsGiveTheSameBits) {
  const Sizes s = GetParam();
  const Values x = random_values(s.rows * s.inner, 1), weight = random_values(s.cols * s.inner, 2);
  const int before = omp_get_max_threads();
  for (const int threads : {1, 2, 3}) {
    omp_set_num_threads(threads);
    Values once(static_cast<size_t>(s.rows * s.cols)), again = once;
    linear(x.data(), weight.data(), nullptr, s.rows, s.inner, s.cols, once.data());
    linear(x.data(), weight.data(), nullptr, s.rows, s.inner, s.cols, again.data());
    EXPECT_EQ(once, again) << threads;
  }
  omp_set_num_threads(before);
}

// The last has more weights than are packed.
INSTANTIATE_TEST_SUITE_P(Shapes, MatrixProduct,
                         testing::Values(Sizes{1, 1, 1}, Sizes{16, 192, 192}, Sizes{130, 64, 37},
                                         Sizes{257, 192, 768}, Sizes{33, 768, 192}, Sizes{20, 1100, 1000}));

}  // namespace
}  // namespace moga::cpu
