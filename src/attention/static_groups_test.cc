#include "attention/static_groups.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "base/error.h"

namespace moga {
namespace {

using testing::ElementsAre;
using testing::Pair;
using Range = std::pair<int64_t, int64_t>;

std::vector<int64_t> queries(const GroupIndex& g, int64_t s) {
  return {g.q_index.begin() + g.q_offsets[s], g.q_index.begin() + g.q_offsets[s + 1]};
}
std::vector<int64_t> keys(const GroupIndex& g, int64_t s) {
  return {g.kv_index.begin() + g.kv_offsets[s], g.kv_index.begin() + g.kv_offsets[s + 1]};
}
std::vector<int64_t> frames_of(const FilmLayout& layout, const std::vector<int64_t>& tokens) {
  std::set<int64_t> frames;
  for (const int64_t token : tokens) {
    frames.insert(token / layout.frame_tokens());
  }
  return {frames.begin(), frames.end()};
}
// Every token of the film is a query exactly once.
void expect_partition(const GroupIndex& groups, int64_t tokens) {
  std::vector<int64_t> sorted = groups.q_index;
  std::sort(sorted.begin(), sorted.end());
  std::vector<int64_t> all(static_cast<size_t>(tokens));
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(sorted, all);
  EXPECT_EQ(groups.q_offsets.back(), tokens);
  EXPECT_EQ(groups.kv_offsets.back(), static_cast<int64_t>(groups.kv_index.size()));
}

TEST(FilmLayout, ChecksSizesAndShots) {
  EXPECT_NO_THROW((FilmLayout{6, 2, 2, {0, 3}}.check()));
  EXPECT_THROW((FilmLayout{0, 2, 2, {0}}.check()), Error);
  EXPECT_THROW((FilmLayout{6, 2, 2, {}}.check()), Error);
  EXPECT_THROW((FilmLayout{6, 2, 2, {1, 3}}.check()), Error);
  EXPECT_THROW((FilmLayout{6, 2, 2, {0, 3, 3}}.check()), Error);
  EXPECT_THROW((FilmLayout{6, 2, 2, {0, 4, 3}}.check()), Error);
  EXPECT_THROW((FilmLayout{6, 2, 2, {0, 6}}.check()), Error);
}

TEST(TemporalGroups, AreEvenAndNeverCrossACut) {
  EXPECT_THAT(temporal_groups({13, 1, 1, {0}}, 10), ElementsAre(Pair(0, 7), Pair(7, 13)));
  EXPECT_THAT(temporal_groups({20, 1, 1, {0}}, 10), ElementsAre(Pair(0, 10), Pair(10, 20)));
  EXPECT_THAT(temporal_groups({14, 1, 1, {0, 3}}, 4),
              ElementsAre(Pair(0, 3), Pair(3, 7), Pair(7, 11), Pair(11, 14)));
  EXPECT_THAT(temporal_groups({3, 1, 1, {0, 1, 2}}, 10), ElementsAre(Pair(0, 1), Pair(1, 2), Pair(2, 3)));
  EXPECT_THROW(temporal_groups({3, 1, 1, {0}}, 0), Error);
}

TEST(WindowGroups, TokensOfAWindowInTokenOrder) {
  const FilmLayout layout = {2, 2, 4, {0}};
  const GroupIndex groups = window_groups(layout, {.rows = 1, .cols = 2, .temporal_group = 2});
  ASSERT_EQ(groups.segments(), 2);
  EXPECT_THAT(queries(groups, 0), ElementsAre(0, 1, 4, 5, 8, 9, 12, 13));
  EXPECT_THAT(queries(groups, 1), ElementsAre(2, 3, 6, 7, 10, 11, 14, 15));
  EXPECT_EQ(groups.kv_index, groups.q_index);
}

TEST(WindowGroups, UnevenWindowsDifferByOneRowOrColumn) {
  const FilmLayout layout = {7, 5, 7, {0, 4}};
  for (const int64_t rows : {1, 2, 3, 5}) {
    for (const int64_t cols : {1, 2, 4, 7}) {
      const GroupIndex groups = window_groups(layout, {.rows = rows, .cols = cols, .temporal_group = 3});
      expect_partition(groups, layout.tokens());
      ASSERT_EQ(groups.segments(), 3 * rows * cols);
      const int64_t frames = 2;  // of the first temporal group
      for (int64_t s = 0; s < rows * cols; ++s) {
        const auto size = static_cast<int64_t>(queries(groups, s).size());
        EXPECT_GE(size, frames * (5 / rows) * (7 / cols));
        EXPECT_LE(size, frames * ((5 + rows - 1) / rows) * ((7 + cols - 1) / cols));
      }
    }
  }
  EXPECT_THROW(window_groups(layout, {.rows = 6, .cols = 1}), Error);
  EXPECT_THROW(window_groups(layout, {.rows = 1, .cols = 8}), Error);
  EXPECT_THROW(window_groups(layout, {.rows = 0, .cols = 1}), Error);
}

TEST(WindowGroups, KeysAreWidenedByOneFrameEachSideOrTwoAtTheFilmsEnds) {
  const FilmLayout layout = {10, 2, 2, {0, 3, 7}};
  const GroupIndex groups = window_groups(layout, {.rows = 2, .cols = 2, .temporal_group = 4});
  ASSERT_EQ(groups.segments(), 12);
  EXPECT_THAT(frames_of(layout, keys(groups, 0)), ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(frames_of(layout, keys(groups, 4)), ElementsAre(2, 3, 4, 5, 6, 7));
  EXPECT_THAT(frames_of(layout, keys(groups, 8)), ElementsAre(5, 6, 7, 8, 9));
  // In the window of the queries, in token order, each key once.
  for (int64_t s = 0; s < groups.segments(); ++s) {
    const auto k = keys(groups, s);
    EXPECT_TRUE(std::is_sorted(k.begin(), k.end()));
    EXPECT_EQ(std::set<int64_t>(k.begin(), k.end()).size(), k.size());
    for (const int64_t token : k) {
      EXPECT_EQ(token % 4, queries(groups, s)[0] % 4);
    }
  }
  expect_partition(groups, layout.tokens());
}

TEST(WindowGroups, ShortFilmsTakeWhatThereIs) {
  const WindowConfig config = {.rows = 1, .cols = 1, .temporal_group = 10};
  const FilmLayout single = {5, 1, 1, {0}};
  EXPECT_THAT(window_groups(single, config).kv_index, ElementsAre(0, 1, 2, 3, 4));
  const FilmLayout two = {2, 1, 1, {0, 1}};
  const GroupIndex pair = window_groups(two, config);
  EXPECT_THAT(keys(pair, 0), ElementsAre(0, 1));
  EXPECT_THAT(keys(pair, 1), ElementsAre(0, 1));
  const FilmLayout three = {3, 1, 1, {0, 1}};
  EXPECT_THAT(keys(window_groups(three, config), 1), ElementsAre(0, 1, 2));
  EXPECT_THAT(window_groups(FilmLayout{1, 1, 1, {0}}, config).kv_index, ElementsAre(0));
}

TEST(WindowGroups, WithoutBoundaryKeysEqualQueries) {
  const GroupIndex groups = window_groups(
      {9, 3, 3, {0, 4}}, {.rows = 2, .cols = 2, .temporal_group = 3, .boundary = Boundary::kNone});
  EXPECT_EQ(groups.q_index, groups.kv_index);
  EXPECT_EQ(groups.q_offsets, groups.kv_offsets);
}

TEST(WindowGroups, PairsGiveThePapersSparsity) {
  // 10 s of video: 40 latent frames; 2x2 windows over ten frames attend to 1/16 of the pairs, frames to 1/40.
  const FilmLayout layout = {40, 6, 4, {0}};
  const double all = full_groups(layout.tokens()).pairs();
  const WindowConfig hard = {.temporal_group = 10, .boundary = Boundary::kNone};
  EXPECT_DOUBLE_EQ(window_groups(layout, hard).pairs() / all, 1.0 / 16);
  EXPECT_DOUBLE_EQ(frame_groups(layout).pairs() / all, 1.0 / 40);
}

TEST(FrameGroups, OneSegmentALatentFrame) {
  const FilmLayout layout = {3, 2, 2, {0, 1}};
  const GroupIndex groups = frame_groups(layout);
  EXPECT_THAT(groups.q_offsets, ElementsAre(0, 4, 8, 12));
  EXPECT_EQ(groups.kv_offsets, groups.q_offsets);
  EXPECT_EQ(groups.kv_index, groups.q_index);
  expect_partition(groups, 12);
}

TEST(FullGroups, OneSegment) {
  EXPECT_THAT(full_groups(3).q_index, ElementsAre(0, 1, 2));
  EXPECT_THAT(full_groups(3).kv_offsets, ElementsAre(0, 3));
  EXPECT_THAT(full_groups(0).q_offsets, ElementsAre(0, 0));
  EXPECT_THROW(full_groups(-1), Error);
}

TEST(ShotTextGroups, OwnCaptionThenTheFilmsText) {
  const FilmLayout layout = {3, 1, 2, {0, 1}};
  const GroupIndex groups = shot_text_groups(layout, {{2, 4}, {7, 7}}, {10, 11});
  EXPECT_THAT(queries(groups, 0), ElementsAre(0, 1));
  EXPECT_THAT(queries(groups, 1), ElementsAre(2, 3, 4, 5));
  EXPECT_THAT(keys(groups, 0), ElementsAre(2, 3, 10));
  EXPECT_THAT(keys(groups, 1), ElementsAre(10));
  EXPECT_TRUE(shot_text_groups(layout, {{0, 0}, {0, 0}}, {0, 0}).kv_index.empty());
  EXPECT_THROW(shot_text_groups(layout, {{0, 1}}, {0, 0}), Error);
  EXPECT_THROW(shot_text_groups(layout, {{0, 1}, {3, 2}}, {0, 0}), Error);
  EXPECT_THROW(shot_text_groups(layout, {{0, 1}, {-1, 2}}, {0, 0}), Error);
}

TEST(RepeatGroups, SamplesShiftByTheirStrides) {
  const GroupIndex one = shot_text_groups({2, 1, 1, {0, 1}}, {{0, 2}, {2, 3}}, {0, 0});
  const GroupIndex two = repeat_groups(one, 2, 2, 5);
  EXPECT_THAT(two.q_index, ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(two.q_offsets, ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(two.kv_index, ElementsAre(0, 1, 2, 5, 6, 7));
  EXPECT_THAT(two.kv_offsets, ElementsAre(0, 2, 3, 5, 6));
  EXPECT_EQ(two.pairs(), 2 * one.pairs());
  EXPECT_THAT(repeat_groups(one, 0, 2, 5).q_offsets, ElementsAre(0));
}

}  // namespace
}  // namespace moga
