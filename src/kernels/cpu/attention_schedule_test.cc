#include "kernels/cpu/attention_schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <queue>
#include <random>

namespace moga::cpu {
namespace {

std::vector<int64_t> offsets_of(const std::vector<int64_t>& lengths) {
  std::vector<int64_t> offsets = {0};
  for (const int64_t length : lengths) {
    offsets.push_back(offsets.back() + length);
  }
  return offsets;
}

double item_cost(const AttentionItem& item, const std::vector<int64_t>& q, const std::vector<int64_t>& kv) {
  if (item.segment_end - item.segment_begin == 1) {
    const auto s = static_cast<size_t>(item.segment_begin);
    return segment_cost(item.end - item.begin, kv[s + 1] - kv[s]);
  }
  double cost = 0;
  for (auto s = static_cast<size_t>(item.segment_begin); s < static_cast<size_t>(item.segment_end); ++s) {
    cost += segment_cost(q[s + 1] - q[s], kv[s + 1] - kv[s]);
  }
  return cost;
}

void expect_each_slot_once(const std::vector<AttentionItem>& items, const std::vector<int64_t>& offsets) {
  std::vector<int> times(static_cast<size_t>(offsets.back()));
  std::vector<int> segments(offsets.size() - 1);
  for (const AttentionItem& item : items) {
    for (int64_t s = item.segment_begin; s < item.segment_end; ++s) {
      ++segments[static_cast<size_t>(s)];
      const bool whole = item.segment_end - item.segment_begin > 1;
      const int64_t first = offsets[static_cast<size_t>(s)] + (whole ? 0 : item.begin);
      const int64_t last =
          whole ? offsets[static_cast<size_t>(s) + 1] : offsets[static_cast<size_t>(s)] + item.end;
      for (int64_t i = first; i < last; ++i) {
        ++times[static_cast<size_t>(i)];
      }
    }
  }
  EXPECT_TRUE(std::all_of(times.begin(), times.end(), [](int n) { return n == 1; }));
  EXPECT_TRUE(std::all_of(segments.begin(), segments.end(), [](int n) { return n >= 1; }));
}

// What part of all threads' time is work when each takes the next unit as soon as it is free.
double busy_share(const std::vector<AttentionItem>& items, const std::vector<int64_t>& q,
                  const std::vector<int64_t>& kv, int64_t heads, int64_t threads) {
  std::priority_queue<double, std::vector<double>, std::greater<>> free_at;
  for (int64_t i = 0; i < threads; ++i) {
    free_at.push(0);
  }
  double work = 0;
  double end = 0;
  for (int64_t n = 0; n < heads; ++n) {
    for (const AttentionItem& item : items) {
      const double cost = item_cost(item, q, kv);
      const double until = free_at.top() + cost;
      free_at.pop();
      free_at.push(until);
      work += cost;
      end = std::max(end, until);
    }
  }
  return work / (end * static_cast<double>(threads));
}

TEST(AttentionSchedule, EverySlotIsWorkedOnOnce) {
  std::mt19937 random(3);
  for (int round = 0; round < 30; ++round) {
    std::vector<int64_t> q_lengths, kv_lengths;
    for (int s = 0; s < 40; ++s) {
      q_lengths.push_back(static_cast<int64_t>(random() % 4 == 0 ? random() % 3000 : random() % 6));
      kv_lengths.push_back(static_cast<int64_t>(random() % 4 == 0 ? random() % 3000 : random() % 6));
    }
    const auto q = offsets_of(q_lengths), kv = offsets_of(kv_lengths);
    const AttentionTiles tiles = attention_tiles(64);
    expect_each_slot_once(forward_items(q.data(), kv.data(), 40, tiles, 2, 3), q);
    const auto backward = backward_items(q.data(), kv.data(), 40, tiles);
    expect_each_slot_once(backward, kv);
    for (size_t i = 0; i < backward.size(); ++i) {  // blocks of one segment stand side by side
      EXPECT_EQ(backward[i].continues,
                backward[i].segment_end == backward[i].segment_begin + 1 && backward[i].begin > 0);
      if (backward[i].continues) {
        EXPECT_EQ(backward[i - 1].segment_begin, backward[i].segment_begin);
        EXPECT_EQ(backward[i - 1].end, backward[i].begin);
      }
    }
  }
}

TEST(AttentionSchedule, WildlyUnevenSegmentsKeepAllThreadsBusy) {
  std::vector<int64_t> one_giant = {7373};
  one_giant.resize(1 + 273, 3);
  std::vector<int64_t> falling;
  for (int64_t n = 4096; n > 1; n /= 2) {
    falling.push_back(n);
  }
  for (const auto& lengths : {std::vector<int64_t>(5, 1638), std::vector<int64_t>{8192}, one_giant, falling,
                              std::vector<int64_t>(3000, 3)}) {
    const auto offsets = offsets_of(lengths);
    for (const int64_t heads : {1, 12}) {
      for (const int64_t threads : {2, 3, 7}) {
        const auto items = forward_items(offsets.data(), offsets.data(), static_cast<int64_t>(lengths.size()),
                                         attention_tiles(128), heads, threads);
        const bool fine = heads * static_cast<int64_t>(items.size()) >= threads;
        EXPECT_TRUE(!fine || busy_share(items, offsets, offsets, heads, threads) > 0.9)
            << lengths.front() << " of " << lengths.size() << ", " << heads << " heads, " << threads
            << " threads: " << busy_share(items, offsets, offsets, heads, threads);
        if (heads == 12 && threads == 2) {
          EXPECT_GT(busy_share(items, offsets, offsets, heads, threads), 0.97) << lengths.front();
        }
      }
    }
  }
}

TEST(AttentionSchedule, ThousandsOfTinySegmentsShareFewItems) {
  const auto offsets = offsets_of(std::vector<int64_t>(300000, 3));
  const auto items = forward_items(offsets.data(), offsets.data(), 300000, attention_tiles(128), 12, 2);
  EXPECT_LT(items.size(), 1000U);
  EXPECT_GT(items.size(), 100U);
}

TEST(AttentionSchedule, TilesFitTheCacheAndThePanels) {
  for (int64_t dim = 1; dim <= 256; ++dim) {
    const AttentionTiles tiles = attention_tiles(dim);
    EXPECT_EQ(tiles.dim % 8, 0);
    EXPECT_GE(tiles.dim, dim);
    EXPECT_EQ(tiles.q_block % kWidestPanel, 0);
    EXPECT_EQ(tiles.q_tile % kWidestPanel, 0);
    EXPECT_EQ(tiles.kv_tile % kMostTileRows, 0);
    EXPECT_EQ(tiles.kv_sub % kMostTileRows, 0);
    EXPECT_LE(forward_scratch_floats(tiles) * sizeof(float), size_t{4} << 20);
    EXPECT_LE(backward_scratch_floats(tiles) * sizeof(float), size_t{4} << 20);
  }
}

}  // namespace
}  // namespace moga::cpu
