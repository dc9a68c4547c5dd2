#include "kernels/cpu/grouped_attention_cpu.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <omp.h>

#include "base/error.h"
#include "kernels/cpu/attention_test_case.h"

namespace moga::cpu {
namespace {

using test::Case;
using test::error_of;
using test::Layout;
using test::SegmentLists;
using test::split_tokens;
using test::wild_segments;

// Errors allowed, relative to the largest value: float32 is a few roundings of sums of up to 300 terms; half
// formats round the output once, without F16C towards zero (a unit is 2^-8 and 2^-11); gradients stay
// float32.
constexpr double kTolerance = 4e-6;
double output_tolerance(Storage storage) {
  return storage == Storage::kFloat32 ? kTolerance : storage == Storage::kBfloat16 ? 1.0 / 256 : 1.0 / 1024;
}

class EveryTarget : public testing::TestWithParam<std::string> {
 public:
  void SetUp() override {
    use_attention_target(GetParam());
    ASSERT_EQ(attention_target(), GetParam());  // asked of the code that will run
  }
  void TearDown() override { use_attention_target(""); }
};
INSTANTIATE_TEST_SUITE_P(AttentionCpu, EveryTarget, testing::ValuesIn(attention_targets()),
                         [](const auto& target) { return target.param; });

void expect_exact(Case& c, const std::string& what, double floor = 0.1) {
  c.run();
  const Case::Exact e = c.exact();
  EXPECT_LT(error_of(c.out.read(), e.out), output_tolerance(c.shape.storage)) << what;
  EXPECT_LT(error_of(c.lse, e.lse), kTolerance) << what;
  EXPECT_LT(error_of(c.dq, e.dq, floor), kTolerance) << what;
  EXPECT_LT(error_of(c.dk, e.dk, floor), kTolerance) << what;
  EXPECT_LT(error_of(c.dv, e.dv, floor), kTolerance) << what;
  EXPECT_LT(error_of(c.drow_scale, e.drow_scale, floor), kTolerance) << what;
}

TEST_P(EveryTarget, AgreesWithTheScalarTwinForEveryHeadSizeOnWildSegments) {
  for (int64_t dim = 8; dim <= kMaxHeadSize; dim += 8) {
    std::mt19937 random(static_cast<unsigned>(dim));
    Case c({90, 110, 2, dim}, wild_segments(90, 110, random, dim % 64 == 0 ? 300 : 9),
           static_cast<unsigned>(dim));
    expect_exact(c, "head size " + std::to_string(dim));
  }
  for (const int64_t dim : {1, 3, 17, 31, 100, 127, 255}) {
    std::mt19937 random(static_cast<unsigned>(dim));
    Case c({40, 50, 1, dim}, wild_segments(40, 50, random, 9), 5);
    expect_exact(c, "odd head size " + std::to_string(dim));
  }
}

TEST_P(EveryTarget, ReadsAndWritesEveryStorageAndLayout) {
  for (const Storage storage : {Storage::kFloat32, Storage::kBfloat16, Storage::kFloat16}) {
    for (const Layout layout : {Layout::kTokenMajor, Layout::kHeadMajor, Layout::kPadded}) {
      for (const int64_t dim : {16, 40, 37}) {
        std::mt19937 random(3);
        Case c({70, 70, 3, dim, storage, layout}, split_tokens(70, 4, random), 11);
        expect_exact(c, "storage " + std::to_string(static_cast<int>(storage)) + " layout " +
                            std::to_string(static_cast<int>(layout)));
      }
    }
  }
}

TEST_P(EveryTarget, SegmentLengthsAroundTheTileSizes) {
  for (const int64_t queries : {1, 3, 15, 16, 17, 47, 48, 49, 95, 97, 145}) {
    for (const int64_t keys : {1, 7, 8, 9, 127, 128, 129, 257}) {
      SegmentLists lists;
      for (int64_t i = 0; i < queries; ++i) lists.q_index.push_back(i);
      for (int64_t i = 0; i < keys; ++i) lists.kv_index.push_back(keys - 1 - i);
      lists.close();
      Case c({queries, keys, 1, 24}, lists, 2);
      // With one key dq and dk are exactly zero: sums of terms of size one, as many as queries, that cancel
      // out.
      expect_exact(c, std::to_string(queries) + " x " + std::to_string(keys),
                   keys == 1 ? 5.0 + static_cast<double>(queries) / 5 : 0.1);
    }
  }
}

TEST_P(EveryTarget, LongSegmentsInSeveralBlocks) {
  std::mt19937 random(8);
  Case c({1250, 1250, 1, 16}, split_tokens(1250, 1, random), 4);
  expect_exact(c, "1250 tokens");
}

TEST_P(EveryTarget, GradientsAgreeWithFiniteDifferences) {
  std::mt19937 random(1);
  Case c({6, 7, 1, 8}, wild_segments(6, 7, random, 30), 6);
  c.run();
  const auto loss = [&] {
    attention_forward(*c.plan(), c.lists.view(), c.forward_arguments());
    double sum = 0;
    c.out.each([&](size_t at, size_t i) { sum += c.out.get(at) * c.dout.exact[i]; });
    return sum;
  };
  const auto expect_gradient = [&](float& x, float gradient, const char* name) {
    const float kept = x;
    constexpr float kStep = 1.0F / 64;
    x = kept + kStep;
    const double above = loss();
    x = kept - kStep;
    const double below = loss();
    x = kept;
    // The curvature's part is of the step's square; float32 sums of a few hundred terms of size ten do the
    // rest.
    EXPECT_NEAR(gradient, (above - below) / (2 * kStep), 2e-2 + 2e-3 * std::abs(gradient)) << name;
  };
  const auto each = [&](test::Array& x, const std::vector<float>& gradient, const char* name) {
    for (size_t i = 0; i < gradient.size(); ++i) {
      expect_gradient(x.wide[i], gradient[i], name);
    }
  };
  const auto dq = c.dq, dk = c.dk, dv = c.dv, drow = c.drow_scale;
  each(c.q, dq, "q");
  each(c.k, dk, "k");
  each(c.v, dv, "v");
  for (size_t i = 0; i < drow.size(); ++i) {
    expect_gradient(c.row_scale[i], drow[i], "row_scale");
  }
}

TEST_P(EveryTarget, AddsWithAFactorAndLeavesOtherRowsAlone) {
  std::mt19937 random(4);
  SegmentLists lists;
  for (int64_t t = 0; t < 30; t += 2) {
    lists.q_index.push_back(t);
    lists.kv_index.push_back(t);
  }
  lists.close();
  Case c({30, 30, 2, 16}, lists, 9);
  auto x = c.forward_arguments();
  attention_forward(*c.plan(), lists.view(), x);
  const auto once = c.out.read();
  for (size_t i = 2; i < once.size(); ++i) {
    if (i / 32 % 2 == 1) {
      EXPECT_EQ(once[i], 0.0);
    }
  }
  std::fill(c.out.wide.begin(), c.out.wide.end(), 1.0F);
  x.output = Output::kAdd;
  x.factor = 0.25F;
  attention_forward(*c.plan(), lists.view(), x);
  const auto sum = c.out.read();
  for (size_t i = 0; i < once.size(); ++i) {
    EXPECT_NEAR(sum[i], 1.0 + 0.25 * once[i], 1e-6);
  }
}

TEST_P(EveryTarget, NanAndInfinityStayInTheirSegment) {
  std::mt19937 random(2);
  const SegmentLists lists = split_tokens(150, 5, random);
  Case clean({150, 150, 2, 24}, lists, 3);
  clean.run();
  for (const float poison : {std::nanf("0x123"), INFINITY, -INFINITY}) {
    Case c({150, 150, 2, 24}, lists, 3);
    const int64_t sick = lists.q_index[static_cast<size_t>(lists.q_offsets[2])];
    for (test::Array* x : {&c.q, &c.k, &c.v}) {
      std::fill_n(x->wide.begin() + sick * 48, 48, poison);
    }
    c.run();
    for (size_t s = 0; s + 1 < lists.q_offsets.size(); ++s) {
      for (int64_t i = lists.q_offsets[s]; i < lists.q_offsets[s + 1]; ++i) {
        const int64_t token = lists.q_index[static_cast<size_t>(i)];
        for (int64_t j = token * 48; j < (token + 1) * 48; ++j) {
          const auto at = static_cast<size_t>(j);
          if (s == 2) {
            EXPECT_TRUE(token != sick || std::isnan(c.out.wide[at]));
            continue;
          }
          ASSERT_EQ(c.out.wide[at], clean.out.wide[at]) << token;
          ASSERT_EQ(c.dq[at], clean.dq[at]) << token;
          ASSERT_EQ(c.dk[at], clean.dk[at]) << token;
          ASSERT_EQ(c.dv[at], clean.dv[at]) << token;
        }
      }
    }
  }
}

// Threads keep their memory from call to call, with whatever was computed in it.
TEST_P(EveryTarget, NothingIsLeftOfEarlierCalls) {
  constexpr int64_t kTokens = 300;
  std::mt19937 random(2);
  const SegmentLists whole = split_tokens(kTokens, 1, random);
  SegmentLists keyless = whole;
  keyless.kv_index.clear();
  keyless.kv_offsets = {0, 0};
  const auto poison = [&] {  // every thread's memory: there are more heads than threads
    Case c({kTokens, kTokens, 64, 24}, whole, 3);
    std::fill(c.v.wide.begin(), c.v.wide.end(), std::nanf("0x123"));
    c.run();
  };
  poison();
  Case c({kTokens, kTokens, 2, 24}, whole, 3);
  c.run();
  EXPECT_LT(error_of(c.out.wide, c.exact().out), 1e-5);
  poison();
  Case none({kTokens, kTokens, 2, 24}, keyless, 3);
  attention_forward(*none.plan(), keyless.view(), none.forward_arguments());
  EXPECT_THAT(none.out.wide, testing::Each(0.0F));
  EXPECT_THAT(none.lse, testing::Each(-std::numeric_limits<float>::infinity()));
}

TEST_P(EveryTarget, VeryLargeLogitsDoNotOverflow) {
  std::mt19937 random(2);
  Case c({64, 64, 2, 16}, split_tokens(64, 1, random), 3);
  c.scale = 1e4F;
  c.run();
  const Case::Exact e = c.exact();
  EXPECT_GT(*std::max_element(c.lse.begin(), c.lse.end()), 1e4F);
  // Scores of 1e5 are known to about 1e-2, so a softmax between near rivals is not exact; everything is
  // finite.
  EXPECT_LT(error_of(c.lse, e.lse), 1e-6);
  for (const auto* x : {&c.out.wide, &c.dq, &c.dk, &c.dv, &c.drow_scale}) {
    EXPECT_TRUE(std::all_of(x->begin(), x->end(), [](float y) { return std::isfinite(y); }));
  }
}

// Keys come in tiles, and later ones go by the maximum of the first while that serves.
TEST_P(EveryTarget, ScoresThatRiseOrFallFromTileToTile) {
  struct Slope {
    double rise;   // of the scores, from the first key to the last
    float values;  // size of v
  };
  for (const auto& [rise, values] : std::vector<Slope>{
           {-200, 1}, {-20, 1}, {20, 1}, {60, 1}, {200, 1}, {20, 1e25F}, {40, 1e25F}, {200, 1e25F}}) {
    SCOPED_TRACE(rise);
    SCOPED_TRACE(values);
    std::mt19937 random(4);
    constexpr int64_t kTokens = 700;
    Case c({kTokens, kTokens, 2, 24}, split_tokens(kTokens, 1, random), 3);
    const auto put = [](auto& x, const auto& value) {
      x.each([&](size_t at, size_t i) {
        const auto channel = static_cast<int64_t>(i) % 24;
        const auto token = static_cast<int64_t>(i) / 48;
        if (channel == 0) {
          x.exact[i] = x.set(at, static_cast<float>(value(token)));
        }
      });
    };
    put(c.q, [](int64_t) { return 4.0; });
    put(c.k, [&, rise = rise](int64_t token) {
      return rise * static_cast<double>(token) / kTokens / (4.0 * c.scale);
    });
    c.v.each([&, size = values](size_t at, size_t i) {
      c.v.exact[i] = c.v.set(at, size * static_cast<float>(c.v.exact[i]));
    });
    c.run();
    const Case::Exact e = c.exact();
    EXPECT_LT(error_of(c.out.wide, e.out), 1e-5 + 2e-7 * std::abs(rise));
    EXPECT_LT(error_of(c.lse, e.lse), 1e-6);
    EXPECT_LT(error_of(c.dv, e.dv), 1e-5 + 2e-7 * std::abs(rise));
  }
}

// A few tokens are up to a thousand times as large as the others, so that scores reach from nothing to
// thousands, in any order: powers of two of a later tile overflow, too, where the first one's maximum does
// not serve.
TEST_P(EveryTarget, TokensOfWildlyDifferentSizes) {
  for (unsigned seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const auto tokens = static_cast<int64_t>(130 + random() % 400);
    const auto dim = static_cast<int64_t>(4 + random() % 44);
    Case c({tokens, tokens, 1, dim}, split_tokens(tokens, 1 + random() % 2, random), seed);
    const auto spread = [&](auto& x, double most) {  // returns the length of the longest row
      std::uniform_real_distribution<double> uniform;
      std::vector<float> size(static_cast<size_t>(tokens), 1.0F);
      for (float& s : size) {
        s = uniform(random) < 0.02 ? static_cast<float>(std::pow(most, uniform(random))) : 1.0F;
      }
      std::vector<double> squares(size.size());
      x.each([&](size_t at, size_t i) {
        const size_t token = i / static_cast<size_t>(dim);
        x.exact[i] = x.set(at, size[token] * static_cast<float>(x.exact[i]));
        squares[token] += x.exact[i] * x.exact[i];
      });
      return std::sqrt(*std::max_element(squares.begin(), squares.end()));
    };
    const double q = spread(c.q, 10);
    const double k = spread(c.k, 1000);
    const double v = spread(c.v, 1000);
    const double g = spread(c.dout, 1);
    c.run();
    const Case::Exact e = c.exact();
    const double largest = q * k * c.scale;      // of the scores
    const double bound = 1e-5 + 5e-7 * largest;  // they are rounded in proportion to their size
    const double slope = g * v * c.scale;        // of the terms of the scores' gradients, which cancel
    EXPECT_LT(error_of(c.out.wide, e.out, v), bound);
    EXPECT_LT(error_of(c.lse, e.lse, largest), 1e-6);
    EXPECT_LT(error_of(c.dv, e.dv), bound);
    EXPECT_LT(error_of(c.dq, e.dq, slope * k), bound);
    EXPECT_LT(error_of(c.dk, e.dk, slope * q), bound);
  }
}

TEST(AttentionCpu, TheSameBitsOnEveryRunAndWithAnyNumberOfThreads) {
  const int kept = omp_get_max_threads();
  for (const bool wild : {false, true}) {
    std::vector<std::vector<float>> first;
    for (const int threads : {1, 2, 2, 3, 3, 7, 7}) {
      omp_set_num_threads(threads);
      std::mt19937 random(6);
      // Blocks of one segment and shared tokens: everything that makes units wait for each other.
      Case c({700, 700, 3, 40}, wild ? wild_segments(700, 700, random) : split_tokens(700, 1, random), 3);
      c.run();
      const std::vector<std::vector<float>> now = {c.out.wide, c.lse, c.dq, c.dk, c.dv, c.drow_scale};
      if (first.empty()) {
        first = now;
      }
      EXPECT_TRUE(first == now) << threads << " threads";
    }
  }
  omp_set_num_threads(kept);
}

TEST(AttentionCpu, AMillionTokensInTinyGroups) {
  constexpr int64_t kTokens = 1'000'000;
  SegmentLists lists;
  for (int64_t t = 0; t < kTokens; ++t) {
    const int64_t token = t * 7919 % kTokens;
    lists.q_index.push_back(token);
    lists.kv_index.push_back(token);
    if (t % 3 == 2 || t + 1 == kTokens) {
      lists.close();
    }
  }
  Case c({kTokens, kTokens, 1, 4}, lists, 3);
  expect_exact(c, "a million tokens");
}

TEST(AttentionCpu, NothingToDo) {
  Case none({3, 4, 2, 16}, SegmentLists(), 1);
  none.run();
  EXPECT_TRUE(std::all_of(none.out.wide.begin(), none.out.wide.end(), [](float x) { return x == 0; }));
  EXPECT_TRUE(std::all_of(none.dk.begin(), none.dk.end(), [](float x) { return x == 0; }));
  SegmentLists lists;
  lists.q_index = {2, 0};
  lists.close();  // two queries without keys
  Case c({3, 4, 2, 16}, lists, 1);
  expect_exact(c, "no keys");
  EXPECT_EQ(c.lse[0], -INFINITY);
  Case empty({0, 0, 2, 16}, SegmentLists(), 1);
  empty.run();
}

template <typename Body>
std::string message_of(const Body& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(AttentionCpu, WrongArgumentsAreRefusedBeforeAnythingIsTouched) {
  using testing::HasSubstr;
  std::mt19937 random(6);
  Case c({12, 12, 2, 16}, split_tokens(12, 2, random), 3);
  const auto made = c.plan();
  const auto plan_with = [&](const auto& change) {
    SegmentLists lists = c.lists;
    AttentionShape shape = {12, 12, 2, 16};
    change(lists, shape);
    return message_of([&] { plan_attention(lists.view(), shape); });
  };
  EXPECT_THAT(plan_with([](auto& l, auto&) { l.q_index[3] = 12; }), HasSubstr("query index 12 at slot 3"));
  EXPECT_THAT(plan_with([](auto& l, auto&) { l.kv_index[0] = -1; }), HasSubstr("key index -1"));
  EXPECT_THAT(plan_with([](auto& l, auto&) { l.kv_offsets[1] = 13; }), HasSubstr("fall from 13"));
  EXPECT_THAT(plan_with([](auto& l, auto&) { l.q_offsets[0] = 1; }), HasSubstr("start with 0"));
  EXPECT_THAT(plan_with([](auto&, auto& s) { s.dim = 257; }), HasSubstr("head size 257"));
  EXPECT_THAT(plan_with([](auto&, auto& s) { s.heads = 0; }), HasSubstr("0 heads"));

  const auto forward_with = [&](const auto& change) {
    ForwardArguments x = c.forward_arguments();
    SegmentLists lists = c.lists;
    change(x, lists);
    return message_of([&] { attention_forward(*made, lists.view(), x); });
  };
  EXPECT_THAT(forward_with([](auto& x, auto&) { x.k.tokens = 11; }), HasSubstr("k is [11, 2, 16]"));
  EXPECT_THAT(forward_with([](auto& x, auto&) { x.v.dim = 8; }), HasSubstr("v is [12, 2, 8]"));
  EXPECT_THAT(forward_with([](auto& x, auto&) { x.q.data = nullptr; }), HasSubstr("q has no data"));
  EXPECT_THAT(forward_with([](auto& x, auto&) { x.out.token_stride = 0; }), HasSubstr("rows of out overlap"));
  EXPECT_THAT(forward_with([](auto& x, auto&) { x.out.head_stride = 8; }), HasSubstr("rows of out overlap"));
  EXPECT_THAT(forward_with([](auto&, auto& l) { l.kv_index[5] = 40; }), HasSubstr("a key index is not in"));
  EXPECT_THAT(forward_with([](auto&, auto& l) { l.close(); }), HasSubstr("other segments"));
  EXPECT_TRUE(std::isnan(c.out.wide[0]));
  EXPECT_TRUE(std::isnan(c.lse[0]));
  BackwardArguments b = c.backward_arguments();
  b.dout.tokens = 3;
  EXPECT_THAT(message_of([&] { attention_backward(*made, c.lists.view(), b); }), HasSubstr("dout is [3"));
  b = c.backward_arguments();
  b.lse = nullptr;
  EXPECT_THAT(message_of([&] { attention_backward(*made, c.lists.view(), b); }), HasSubstr("must be given"));
  EXPECT_TRUE(std::isnan(c.dq[0]));
  EXPECT_THAT(message_of([] { use_attention_target("PDP11"); }), HasSubstr("PDP11"));
}

}  // namespace
}  // namespace moga::cpu
