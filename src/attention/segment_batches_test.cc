#include "attention/segment_batches.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>
#include <tuple>

#include "base/error.h"

namespace moga {
namespace {

struct Offsets {
  std::vector<int64_t> q = {0};
  std::vector<int64_t> kv = {0};

  void add(int64_t q_len, int64_t kv_len) {
    q.push_back(q.back() + q_len);
    kv.push_back(kv.back() + kv_len);
  }
  std::vector<SegmentBatch> batches(const BatchLimits& limits) const {
    return segment_batches(q.data(), kv.data(), static_cast<int64_t>(q.size()) - 1, limits);
  }
};

int64_t total_scores(const std::vector<SegmentBatch>& batches) {
  int64_t sum = 0;
  for (const auto& batch : batches) {
    sum += batch.scores();
  }
  return sum;
}

TEST(SegmentBatches, CoverEveryPairOnceWithinTheLimits) {
  std::mt19937 random(3);
  for (int round = 0; round < 50; ++round) {
    Offsets offsets;
    const int segments = static_cast<int>(random() % 60);
    for (int s = 0; s < segments; ++s) {
      offsets.add(random() % 40, random() % 40);
    }
    const BatchLimits limits = {
        .max_scores = 50 + static_cast<int64_t>(random() % 1000), .waste_factor = 1.2, .waste_scores = 30};
    std::multiset<std::tuple<int64_t, int64_t>> query_slots;
    int64_t true_rows = 0;
    for (const SegmentBatch& batch : offsets.batches(limits)) {
      int64_t true_scores = 0;
      ASSERT_FALSE(batch.pieces.empty());
      for (const SegmentPiece& p : batch.pieces) {
        EXPECT_GT(p.q_len, 0);
        EXPECT_LE(p.q_len, batch.q_len);
        EXPECT_LE(p.kv_len, batch.kv_len);
        EXPECT_EQ(p.kv_begin, offsets.kv[p.segment]);
        EXPECT_EQ(p.kv_len, offsets.kv[p.segment + 1] - offsets.kv[p.segment]);
        EXPECT_GE(p.q_begin, offsets.q[p.segment]);
        EXPECT_LE(p.q_begin + p.q_len, offsets.q[p.segment + 1]);
        true_scores += p.q_len * p.kv_len;
        for (int64_t i = 0; i < p.q_len; ++i) {
          query_slots.insert({p.segment, p.q_begin + i});
        }
      }
      EXPECT_LE(batch.scores(), std::max<int64_t>(limits.max_scores, batch.kv_len));
      EXPECT_LE(static_cast<double>(batch.scores()), 1.2 * static_cast<double>(true_scores) + 30);
    }
    for (int s = 0; s < segments; ++s) {
      const bool empty = offsets.kv[s] == offsets.kv[s + 1];
      true_rows += empty ? 0 : offsets.q[s + 1] - offsets.q[s];
    }
    EXPECT_EQ(static_cast<int64_t>(query_slots.size()), true_rows);
    EXPECT_EQ(std::set(query_slots.begin(), query_slots.end()).size(), query_slots.size());
  }
}

TEST(SegmentBatches, EqualSegmentsBundleInOrderWithoutWaste) {
  Offsets offsets;
  for (int s = 0; s < 12; ++s) {
    offsets.add(40, 40);
  }
  const auto batches = offsets.batches({.max_scores = 4 * 1600});
  ASSERT_EQ(batches.size(), 3U);
  EXPECT_EQ(total_scores(batches), 12 * 1600);
  int64_t next = 0;
  for (const auto& batch : batches) {
    for (const auto& piece : batch.pieces) {
      EXPECT_EQ(piece.segment, next++);
    }
  }
}

TEST(SegmentBatches, ThousandsOfTinySegmentsAreFewBatches) {
  Offsets offsets;
  std::mt19937 random(1);
  for (int s = 0; s < 5000; ++s) {
    offsets.add(1 + random() % 5, 1 + random() % 5);
  }
  EXPECT_LT(offsets.batches(batch_limits(BatchTarget::kCpu, 6)).size(), 30U);
  EXPECT_LE(offsets.batches(batch_limits(BatchTarget::kCuda, 6)).size(), 2U);
}

TEST(SegmentBatches, ManyRoutedGroupsAreFewBatchesOnAGpu) {
  // Training: 64 samples, 5 groups of about 96 tokens.
  Offsets offsets;
  std::mt19937 random(1);
  for (int s = 0; s < 320; ++s) {
    const int64_t length = 40 + random() % 112;
    offsets.add(length, length);
  }
  EXPECT_LE(offsets.batches(batch_limits(BatchTarget::kCuda, 6)).size(), 6U);
}

TEST(SegmentBatches, LongSegmentsAreCutEvenlyAlongTheirQueries) {
  Offsets offsets;
  offsets.add(5, 5);
  offsets.add(101, 50);
  const auto batches = offsets.batches({.max_scores = 1000});
  ASSERT_EQ(batches.size(), 7U);
  int64_t next = 5;
  for (int i = 0; i < 6; ++i) {
    ASSERT_EQ(batches[i].pieces.size(), 1U);
    EXPECT_EQ(batches[i].pieces[0].segment, 1);
    EXPECT_EQ(batches[i].pieces[0].q_begin, next);
    EXPECT_GE(batches[i].q_len, 16);
    next += batches[i].q_len;
  }
  EXPECT_EQ(next, 106);
  EXPECT_EQ(batches[6].pieces[0].segment, 0);
}

TEST(SegmentBatches, MemoryOfALongFilmStaysBounded) {
  // Full attention over 578k tokens would be 3e11 scores.
  Offsets offsets;
  offsets.add(577600, 577600);
  for (const auto target : {BatchTarget::kCpu, BatchTarget::kCuda}) {
    const BatchLimits limits = batch_limits(target, 12);
    EXPECT_LE(limits.max_scores * (target == BatchTarget::kCpu ? 1 : 12), int64_t{1} << 24);
    for (const auto& batch : offsets.batches(limits)) {
      EXPECT_LE(batch.scores(), std::max(limits.max_scores, limits.min_rows * 577600));
    }
  }
}

TEST(SegmentBatches, NothingToDo) {
  Offsets offsets;
  EXPECT_TRUE(offsets.batches({.max_scores = 1}).empty());
  offsets.add(0, 3);
  offsets.add(3, 0);
  EXPECT_TRUE(offsets.batches({.max_scores = 1}).empty());
  EXPECT_THROW(offsets.batches({.max_scores = 0}), Error);
}

}  // namespace
}  // namespace moga
