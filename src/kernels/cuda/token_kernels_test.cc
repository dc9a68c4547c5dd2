// The kernels against plain loops. Skipped where there is no GPU.
#include "kernels/cuda/token_kernels.h"

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

namespace moga::cuda {
namespace {

class TokenKernels : public ::testing::Test {
 protected:
  void SetUp() override {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
      GTEST_SKIP() << "no GPU";
    }
  }
  std::mt19937 random_{7};
};

// An array on the device; poisoned unless it has values.
template <typename T>
class OnDevice {
 public:
  explicit OnDevice(size_t size) : size_(size) {
    EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&data_), std::max<size_t>(size, 1) * sizeof(T)),
              cudaSuccess);
    EXPECT_EQ(cudaMemset(data_, 0x7b, size * sizeof(T)), cudaSuccess);
  }
  explicit OnDevice(const std::vector<T>& values) : OnDevice(values.size()) {
    EXPECT_EQ(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice), cudaSuccess);
  }
  ~OnDevice() { cudaFree(data_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  T* data() const { return data_; }
  std::vector<T> read() const {
    std::vector<T> values(size_);
    EXPECT_EQ(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
    return values;
  }

 private:
  size_t size_;
  T* data_ = nullptr;
};

// Small whole numbers and halves: exact in every type, so results can be compared exactly.
std::vector<float> draw(std::mt19937& random, size_t size) {
  std::vector<float> values(size);
  for (float& x : values) {
    x = static_cast<float>(static_cast<int>(random() % 17) - 8) / 2;
  }
  return values;
}

template <typename T>
std::vector<T> as(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

template <typename T>
std::vector<float> floats(const std::vector<T>& values) {
  std::vector<float> wide;
  for (const T& x : values) {
    wide.push_back(static_cast<float>(x));
  }
  return wide;
}

std::vector<int64_t> shuffled(std::mt19937& random, int64_t size) {
  std::vector<int64_t> index(static_cast<size_t>(size));
  std::iota(index.begin(), index.end(), 0);
  std::shuffle(index.begin(), index.end(), random);
  return index;
}

template <typename T>
struct ElementOf;
template <>
struct ElementOf<float> {
  static constexpr Element kValue = Element::kFloat32;
};
template <>
struct ElementOf<__nv_bfloat16> {
  static constexpr Element kValue = Element::kBfloat16;
};

TEST_F(TokenKernels, GatherTakesRowsOfAnyStride) {
  constexpr int64_t kTokens = 37, kStride = 24, kWidth = 16;  // rows of 16 within rows of 24
  const auto values = draw(random_, kTokens * kStride);
  const std::vector<int64_t> first = {5, 5, 0, 36, 12}, second = {1};
  const OnDevice<float> from(values), to(first.size() * kWidth), other(second.size() * kWidth);
  const OnDevice<int64_t> first_index(first), second_index(second);
  const RowGather jobs[] = {
      {from.data(), kStride * 4, first_index.data(), to.data(), static_cast<int64_t>(first.size())},
      {from.data() + 8, kStride * 4, second_index.data(), other.data(), 1}};
  ASSERT_EQ(gather_rows(jobs, 2, kWidth * 4, nullptr), nullptr);
  const auto got = to.read();
  for (size_t s = 0; s < first.size(); ++s) {
    for (size_t i = 0; i < kWidth; ++i) {
      EXPECT_EQ(got[s * kWidth + i], values[static_cast<size_t>(first[s]) * kStride + i]);
    }
  }
  const auto shifted = other.read();
  for (size_t i = 0; i < kWidth; ++i) {
    EXPECT_EQ(shifted[i], values[kStride + 8 + i]);
  }
}

template <typename T>
void check_scatter(std::mt19937& random) {
  constexpr int64_t kTokens = 45, kWidth = 264;  // not a multiple of what a warp reads at once
  const auto x = draw(random, kTokens * kWidth), before = draw(random, kTokens * kWidth);
  const auto scale = draw(random, kTokens), dout = draw(random, kTokens * kWidth);
  const auto index = shuffled(random, kTokens);
  const OnDevice<T> from(as<T>(x)), to(as<T>(before)), to_grad(as<T>(dout)), from_grad(x.size());
  const OnDevice<float> scales(scale), dots(kTokens);
  const OnDevice<int64_t> indices(index);
  ASSERT_EQ(scatter_rows({ElementOf<T>::kValue, from.data(), indices.data(), scales.data(), 0.5F, true,
                          to.data(), kTokens, kWidth},
                         nullptr),
            nullptr);
  ASSERT_EQ(scatter_rows_gradient({ElementOf<T>::kValue, to_grad.data(), from.data(), indices.data(),
                                   scales.data(), 0.5F, from_grad.data(), dots.data(), kTokens, kWidth},
                                  nullptr),
            nullptr);
  const auto got = floats(to.read()), grad = floats(from_grad.read());
  const auto got_dots = dots.read();
  for (int64_t s = 0; s < kTokens; ++s) {
    const int64_t t = index[static_cast<size_t>(s)];
    const float factor = 0.5F * scale[static_cast<size_t>(t)];
    float dot = 0;
    for (int64_t i = 0; i < kWidth; ++i) {
      const auto slot = static_cast<size_t>(s * kWidth + i), token = static_cast<size_t>(t * kWidth + i);
      const float sum = before[token] + factor * x[slot];
      EXPECT_NEAR(got[token], sum, std::abs(sum) * 0.004F) << "row " << t << " column " << i;
      EXPECT_NEAR(grad[slot], factor * dout[token], std::abs(factor * dout[token]) * 0.004F);
      dot += dout[token] * x[slot];
    }
    EXPECT_NEAR(got_dots[static_cast<size_t>(s)], 0.5F * dot, 1e-3F);
  }
}

TEST_F(TokenKernels, ScatterAndItsGradient) {
  check_scatter<float>(random_);
  check_scatter<__nv_bfloat16>(random_);
}

TEST_F(TokenKernels, SumRowsAddsTheSlotsOfATokenAndZeroesTheRest) {
  constexpr int64_t kWidth = 8;
  const std::vector<int64_t> starts = {0, 2, 2, 5}, slots = {0, 3, 1, 2, 4};
  const auto x = draw(random_, 5 * kWidth);
  const OnDevice<float> from(x), to(3 * kWidth);
  const OnDevice<int64_t> start(starts), slot(slots);
  ASSERT_EQ(sum_rows({Element::kFloat32, from.data(), start.data(), slot.data(), nullptr, 2.0F, false,
                      to.data(), 3, kWidth},
                     nullptr),
            nullptr);
  const auto got = to.read();
  for (size_t t = 0; t < 3; ++t) {
    for (size_t i = 0; i < kWidth; ++i) {
      float sum = 0;
      for (auto j = static_cast<size_t>(starts[t]); j < static_cast<size_t>(starts[t + 1]); ++j) {
        sum += x[static_cast<size_t>(slots[j]) * kWidth + i];
      }
      EXPECT_EQ(got[t * kWidth + i], 2 * sum) << "token " << t;
    }
  }
}

TEST_F(TokenKernels, RoutingTakesTheLowestOfEqualScores) {
  constexpr int64_t kTokens = 300, kGroups = 7;
  const auto scores = draw(random_, kTokens * kGroups);
  const OnDevice<float> from(scores), probs(scores.size()), top(kTokens);
  const OnDevice<int64_t> ids(kTokens);
  ASSERT_EQ(
      route_tokens({Element::kFloat32, from.data(), probs.data(), ids.data(), top.data(), kTokens, kGroups},
                   nullptr),
      nullptr);
  const auto p = probs.read(), best = top.read();
  const auto id = ids.read();
  for (size_t t = 0; t < kTokens; ++t) {
    const auto row = scores.begin() + static_cast<ptrdiff_t>(t * kGroups);
    const auto first_best = std::max_element(row, row + kGroups) - row;
    double sum = 0;
    for (int64_t g = 0; g < kGroups; ++g) {
      sum += std::exp(static_cast<double>(row[g]));
    }
    EXPECT_EQ(id[t], first_best);
    EXPECT_NEAR(best[t], std::exp(static_cast<double>(row[first_best])) / sum, 1e-6);
    for (int64_t g = 0; g < kGroups; ++g) {
      EXPECT_NEAR(p[t * kGroups + static_cast<size_t>(g)], std::exp(static_cast<double>(row[g])) / sum, 1e-6);
    }
  }
}

TEST_F(TokenKernels, SortIsStableForEverySizeAndSkew) {
  struct Case {
    int64_t batch, tokens, groups;
    bool skewed;
  };
  for (const Case& c : {Case{1, 1, 1, false}, Case{1, 31, 5, false}, Case{3, 512, 5, false},
                        Case{2, 513, 20, true}, Case{1, 187200, 5, false}, Case{2, 70001, 256, false},
                        Case{1, 578760, 20, true}, Case{2, 0, 4, false}}) {
    std::vector<int64_t> ids(static_cast<size_t>(c.batch * c.tokens));
    for (int64_t& id : ids) {
      const auto drawn = static_cast<int64_t>(random_() % static_cast<uint64_t>(c.groups));
      id = c.skewed && random_() % 8 != 0 ? c.groups - 1 : drawn;  // most in one group, some perhaps empty
    }
    const OnDevice<int64_t> in(ids), order(ids.size()), offsets(static_cast<size_t>(c.batch * c.groups + 1));
    const OnDevice<char> workspace(static_cast<size_t>(group_sort_workspace(c.batch, c.tokens, c.groups)));
    ASSERT_EQ(
        sort_groups({in.data(), c.batch, c.tokens, c.groups, order.data(), offsets.data(), workspace.data()},
                    nullptr),
        nullptr);
    std::vector<int64_t> expected(ids.size());
    std::iota(expected.begin(), expected.end(), 0);
    const auto segment = [&](int64_t t) { return t / c.tokens * c.groups + ids[static_cast<size_t>(t)]; };
    std::stable_sort(expected.begin(), expected.end(),
                     [&](int64_t a, int64_t b) { return segment(a) < segment(b); });
    std::vector<int64_t> ends(static_cast<size_t>(c.batch * c.groups + 1), 0);
    for (const int64_t t : expected) {
      ++ends[static_cast<size_t>(segment(t) + 1)];
    }
    std::partial_sum(ends.begin(), ends.end(), ends.begin());
    EXPECT_EQ(order.read(), expected) << c.tokens << " tokens, " << c.groups << " groups";
    EXPECT_EQ(offsets.read(), ends) << c.tokens << " tokens, " << c.groups << " groups";
  }
}

}  // namespace
}  // namespace moga::cuda
