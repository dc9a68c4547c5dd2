#include "kernels/cpu/gelu.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu/grouped_attention_cpu.h"

namespace moga::cpu {
namespace {

class Gelu : public testing::TestWithParam<std::string> {
 public:
  void SetUp() override {
    use_attention_target(GetParam());
    ASSERT_EQ(attention_target(), GetParam());
  }
  void TearDown() override { use_attention_target(""); }
};
INSTANTIATE_TEST_SUITE_P(EveryTarget, Gelu, testing::ValuesIn(attention_targets()),
                         [](const auto& target) { return target.param; });

double gelu(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

double gelu_slope(double x) {
  const double t = std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * std::sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
}

TEST_P(Gelu, IsTheFormula) {
  std::vector<float> x;
  for (int i = -3000; i <= 3000; ++i) {  // an odd number of values
    x.push_back(static_cast<float>(i) * 0.004F);
  }
  for (const float far : {-1e30F, -1000.0F, 1000.0F, 1e30F, 0.0F}) {
    x.push_back(far);
  }
  std::vector<float> y(x.size()), dx(x.size());
  const std::vector<float> dy(x.size(), 2.0F);
  const auto count = static_cast<int64_t>(x.size());
  gelu_tanh(count, x.data(), y.data());
  gelu_tanh_backward(count, x.data(), dy.data(), dx.data());
  for (size_t i = 0; i < x.size(); ++i) {
    const bool far = std::abs(x[i]) > 100;
    const double value = far ? std::max(0.0F, x[i]) : gelu(x[i]);
    const double slope = far ? (x[i] > 0 ? 1 : 0) : gelu_slope(x[i]);
    EXPECT_NEAR(y[i], value, 3e-7 * std::max(1.0, std::abs(value))) << x[i];
    EXPECT_NEAR(dx[i], 2 * slope, 1e-6) << x[i];
  }
  const float nan = std::numeric_limits<float>::quiet_NaN();
  float found = 0;
  gelu_tanh(1, &nan, &found);
  EXPECT_TRUE(std::isnan(found));
}

TEST_P(Gelu, ThreadsAndMemoryDoNotMatter) {
  std::vector<float> x(50001);
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = std::sin(static_cast<float>(i)) * 4;
  }
  const auto count = static_cast<int64_t>(x.size());
  std::vector<float> one(x.size()), many = x;
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  gelu_tanh(count, x.data(), one.data());
  omp_set_num_threads(3);
  gelu_tanh(count, many.data(), many.data());
  omp_set_num_threads(threads);
  EXPECT_EQ(one, many);
}

}  // namespace
}  // namespace moga::cpu
