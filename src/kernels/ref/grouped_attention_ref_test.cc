#include "kernels/ref/grouped_attention_ref.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>
#include <vector>

namespace moga::ref {
namespace {

template <typename T>
View<T> dense(T* data, int64_t tokens, int64_t heads, int64_t dim) {
  return {data, {tokens, heads, dim}, {heads * dim, dim, 1}};
}

// Two heads of three channels; token 4 in two segments, token 2 in none; a segment without keys and one
// without queries.
struct Case {
  static constexpr int64_t kL = 5, kK = 6, kN = 2, kD = 3;
  std::vector<int64_t> q_index = {0, 4, 1, 4, 3};
  std::vector<int64_t> q_offsets = {0, 2, 4, 4, 5};
  std::vector<int64_t> kv_index = {5, 0, 1, 1, 3, 2};
  std::vector<int64_t> kv_offsets = {0, 3, 5, 6, 6};
  std::vector<double> q, k, v, row_scale, dout;

  Case() {
    std::mt19937 random(7);
    std::normal_distribution<double> normal;
    for (auto [x, count] : {std::pair{&q, kL * kN * kD},
                            {&k, kK * kN * kD},
                            {&v, kK * kN * kD},
                            {&row_scale, kL},
                            {&dout, kL * kN * kD}}) {
      x->resize(static_cast<size_t>(count));
      for (double& value : *x) {
        value = normal(random);
      }
    }
  }
  Inputs inputs() const {
    return {dense(q.data(), kL, kN, kD),
            dense(k.data(), kK, kN, kD),
            dense(v.data(), kK, kN, kD),
            {4, q_index.data(), q_offsets.data(), kv_index.data(), kv_offsets.data()},
            row_scale.data(),
            0.7};
  }
  std::pair<std::vector<double>, std::vector<double>> forward() const {
    std::vector<double> out(q.size(), NAN);
    std::vector<double> lse(q_index.size() * kN, NAN);
    grouped_attention_forward(inputs(), dense(out.data(), kL, kN, kD), lse.data());
    return {out, lse};
  }
  double loss() const {
    const auto out = forward().first;
    double sum = 0;
    for (size_t i = 0; i < out.size(); ++i) {
      sum += out[i] * dout[i];
    }
    return sum;
  }
};

TEST(GroupedAttentionRef, EqualScoresGiveTheMeanOfTheValues) {
  const std::vector<double> q = {0, 0}, k = {1, 2, 3, 4}, v = {1, 10, 3, 30};
  const std::vector<int64_t> q_index = {0}, kv_index = {0, 1}, q_offsets = {0, 1}, kv_offsets = {0, 2};
  std::vector<double> out(2), lse(1);
  const Inputs in = {dense(q.data(), 1, 1, 2),
                     dense(k.data(), 2, 1, 2),
                     dense(v.data(), 2, 1, 2),
                     {1, q_index.data(), q_offsets.data(), kv_index.data(), kv_offsets.data()},
                     nullptr,
                     1.0};
  grouped_attention_forward(in, dense(out.data(), 1, 1, 2), lse.data());
  EXPECT_THAT(out, testing::ElementsAre(testing::DoubleEq(2), testing::DoubleEq(20)));
  EXPECT_DOUBLE_EQ(lse[0], std::log(2.0));
}

TEST(GroupedAttentionRef, TokensWithoutKeysOrSegmentAreZero) {
  const Case c;
  const auto [out, lse] = c.forward();
  for (const int64_t token : {2, 3}) {
    for (int64_t i = 0; i < Case::kN * Case::kD; ++i) {
      EXPECT_EQ(out[token * Case::kN * Case::kD + i], 0);
    }
  }
  EXPECT_EQ(lse[4 * Case::kN], -INFINITY);
  EXPECT_TRUE(std::isfinite(lse[0]));
}

TEST(GroupedAttentionRef, LargeScoresDoNotOverflow) {
  Case c;
  for (double& x : c.q) {
    x *= 1e5;
  }
  for (const double x : c.forward().first) {
    EXPECT_TRUE(std::isfinite(x));
  }
}

TEST(GroupedAttentionRef, StridesAreHonoured) {
  const Case c;
  // The same queries stored channel-first.
  std::vector<double> turned(c.q.size());
  for (int64_t t = 0; t < Case::kL; ++t) {
    for (int64_t i = 0; i < Case::kN * Case::kD; ++i) {
      turned[i * Case::kL + t] = c.q[t * Case::kN * Case::kD + i];
    }
  }
  Inputs in = c.inputs();
  in.q = {turned.data(), in.q.extent, {1, Case::kD * Case::kL, Case::kL}};
  std::vector<double> out(c.q.size()), lse(c.q_index.size() * Case::kN);
  grouped_attention_forward(in, dense(out.data(), Case::kL, Case::kN, Case::kD), lse.data());
  EXPECT_EQ(out, c.forward().first);
}

TEST(GroupedAttentionRef, GradientsAgreeWithFiniteDifferences) {
  Case c;
  std::vector<double> dq(c.q.size(), NAN), dk(c.k.size(), NAN), dv(c.v.size(), NAN), drow(Case::kL, NAN);
  grouped_attention_backward(
      c.inputs(), dense<const double>(c.dout.data(), Case::kL, Case::kN, Case::kD),
      {dense(dq.data(), Case::kL, Case::kN, Case::kD), dense(dk.data(), Case::kK, Case::kN, Case::kD),
       dense(dv.data(), Case::kK, Case::kN, Case::kD), drow.data()});
  const auto expect_gradient = [&](std::vector<double>& x, const std::vector<double>& grad,
                                   const char* name) {
    for (size_t i = 0; i < x.size(); ++i) {
      const double kept = x[i];
      constexpr double kStep = 1e-5;
      x[i] = kept + kStep;
      const double above = c.loss();
      x[i] = kept - kStep;
      const double below = c.loss();
      x[i] = kept;
      EXPECT_NEAR(grad[i], (above - below) / (2 * kStep), 1e-8) << name << " " << i;
    }
  };
  expect_gradient(c.q, dq, "q");
  expect_gradient(c.k, dk, "k");
  expect_gradient(c.v, dv, "v");
  expect_gradient(c.row_scale, drow, "row_scale");
}

}  // namespace
}  // namespace moga::ref
