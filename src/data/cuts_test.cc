#include "data/cuts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <opencv2/imgproc.hpp>

#include "base/error.h"
#include "data/toy_world.h"

namespace moga {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::vector<int64_t> true_cuts(const ToyFilm& film) {
  std::vector<int64_t> cuts;
  for (const ToyShot& shot : film.shots) {
    if (shot.first_frame > 0) {
      cuts.push_back(shot.first_frame);
    }
  }
  return cuts;
}

enum class Damage { kNone, kBlur, kNoise, kSmear };

cv::Mat damaged(const cv::Mat& frame, const cv::Mat& last, Damage damage, cv::RNG& random) {
  cv::Mat out = frame.clone();
  if (damage == Damage::kBlur) {
    cv::GaussianBlur(frame, out, {}, 2.5);
  } else if (damage == Damage::kNoise) {
    cv::Mat noise(frame.size(), CV_16SC3);
    random.fill(noise, cv::RNG::NORMAL, 0, 25);
    cv::add(frame, noise, out, cv::noArray(), CV_8U);
  } else if (damage == Damage::kSmear && !last.empty()) {
    cv::addWeighted(frame, 0.7, last, 0.3, 0, out);  // a cut spread over two frames
  }
  return out;
}

// Scored with no tolerance: the very frame.
void expect_found(uint64_t first_seed, int films, const ToyFilmSettings& settings, Damage damage) {
  cv::RNG random(7);
  CutScore sum;
  for (uint64_t seed = first_seed; seed < first_seed + static_cast<uint64_t>(films); ++seed) {
    const ToyFilm film = make_toy_film(seed, settings);
    CutDetector detector;
    cv::Mat last;
    for (int64_t i = 0; i < film.total_frames(); ++i) {
      const cv::Mat frame = draw_toy_frame(film, i, settings);
      detector.add(damaged(frame, last, damage, random));
      last = frame;
    }
    const CutScore score = score_cuts(detector.cuts(), true_cuts(film), 0);
    sum.expected += score.expected;
    sum.found += score.found;
    sum.matched += score.matched;
  }
  EXPECT_GT(sum.expected, films / 2);
  EXPECT_GE(sum.recall(), 0.99) << sum.matched << " of " << sum.expected;
  EXPECT_GE(sum.precision(), 0.99) << sum.matched << " of " << sum.found;
}

ToyFilmSettings short_films() {
  ToyFilmSettings settings;
  settings.max_frames = 97;
  return settings;
}

TEST(Cuts, FoundInTrueFilms) {
  expect_found(0, 200, short_films(), Damage::kNone);
  expect_found(0, 20, {}, Damage::kNone);
}

TEST(Cuts, FoundAtOtherSizesAndInHurriedFilms) {
  ToyFilmSettings settings = short_films();
  settings.width = 192;
  settings.height = 112;
  expect_found(500, 20, settings, Damage::kNone);
  settings = short_films();
  settings.min_shot_frames = 4;
  settings.min_frames = 97;
  settings.min_shots = 12;
  expect_found(600, 60, settings, Damage::kNone);
}

TEST(Cuts, FoundInDamagedFilms) {
  for (const Damage damage : {Damage::kBlur, Damage::kNoise, Damage::kSmear}) {
    SCOPED_TRACE(static_cast<int>(damage));
    expect_found(1000, 40, short_films(), damage);
  }
}

cv::Mat grey(int value) {
  return cv::Mat(20, 32, CV_8UC3, cv::Scalar::all(value));
}

TEST(Cuts, NothingToFind) {
  EXPECT_THAT(detect_cuts({}), IsEmpty());
  EXPECT_THAT(detect_cuts({grey(1)}), IsEmpty());
  EXPECT_THAT(detect_cuts(std::vector<cv::Mat>(30, grey(90))), IsEmpty());
  // A slow fade changes much in all, but nowhere suddenly.
  std::vector<cv::Mat> fade;
  for (int i = 0; i < 16; ++i) {
    fade.push_back(grey(16 * i));
  }
  EXPECT_THAT(detect_cuts(fade), IsEmpty());
}

TEST(Cuts, TwoFramesAndNeighbouringJumps) {
  EXPECT_THAT(detect_cuts({grey(10), grey(200)}), ElementsAre(1));
  // A half-way frame between two shots is one cut, at the larger step.
  std::vector<cv::Mat> frames(10, grey(10));
  frames.push_back(grey(70));
  frames.resize(20, grey(200));
  EXPECT_THAT(detect_cuts(frames), ElementsAre(11));
}

TEST(Cuts, BadInputIsAnError) {
  CutDetector detector;
  EXPECT_THROW(detector.add(cv::Mat()), Error);
  EXPECT_THROW(detector.add(cv::Mat(4, 4, CV_8UC1)), Error);
  CutSettings settings;
  settings.ratio = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THROW(CutDetector{settings}, Error);
  settings = {};
  settings.reach = -1;
  EXPECT_THROW(CutDetector{settings}, Error);
}

TEST(Cuts, ScoresPairEachCutOnce) {
  const CutScore score = score_cuts({4, 5, 20, 40}, {5, 21, 60}, 1);
  EXPECT_EQ(score.expected, 3);
  EXPECT_EQ(score.found, 4);
  EXPECT_EQ(score.matched, 2);
  EXPECT_EQ(score_cuts({4}, {5}, 0).matched, 0);
  EXPECT_EQ(score_cuts({}, {}, 0).recall(), 1);
  EXPECT_EQ(score_cuts({}, {3}, 0).recall(), 0);
}

}  // namespace
}  // namespace moga
