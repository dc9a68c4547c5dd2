#include "data/shots.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <opencv2/imgproc.hpp>

#include "base/error.h"
#include "data/shot_report.h"
#include "data/toy_world.h"
#include "media/video.h"

namespace moga {

// For messages of failed checks.
static void PrintTo(const ShotBoundary& boundary, std::ostream* out) {
  *out << boundary_to_json(boundary, 0).dump();
}

namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// A wide textured picture; shots look at parts of it.
cv::Mat texture(uint64_t seed) {
  cv::RNG random(seed);
  cv::Mat picture(144, 512, CV_32FC3,
                  cv::Scalar(random.uniform(60, 200), random.uniform(60, 200), random.uniform(60, 200)));
  for (int cells = 4; cells <= 32; cells *= 2) {
    cv::Mat grid(std::max(2, cells / 4), cells, CV_32FC3);
    random.fill(grid, cv::RNG::NORMAL, 0, 60 / std::sqrt(cells / 4.0));
    cv::Mat layer;
    cv::resize(grid, layer, picture.size(), 0, 0, cv::INTER_CUBIC);
    picture += layer;
  }
  cv::Mat bytes;
  picture.convertTo(bytes, CV_8UC3);
  return bytes;
}

// `count` frames of a pan of `speed` pixels a frame.
std::vector<cv::Mat> pan(uint64_t seed, int count, double speed = 0.7) {
  const cv::Mat set = texture(seed);
  std::vector<cv::Mat> frames;
  for (int i = 0; i < count; ++i) {
    cv::Mat frame;
    cv::warpAffine(set, frame, cv::Matx23d(1, 0, -20 - speed * i, 0, 1, 0), {256, 144}, cv::INTER_LINEAR,
                   cv::BORDER_REFLECT);
    frames.push_back(frame);
  }
  return frames;
}

cv::Mat mixed(const cv::Mat& a, const cv::Mat& b, double share) {
  cv::Mat out;
  cv::addWeighted(a, 1 - share, b, share, 0, out);
  return out;
}

// Two shots of 40 pure frames each, with `count` frames between that `join` makes of both.
template <class Join>
std::vector<cv::Mat> joined(int count, const Join& join) {
  const std::vector<cv::Mat> a = pan(1, 40 + count);
  const std::vector<cv::Mat> b = pan(2, 40 + count);
  std::vector<cv::Mat> film(a.begin(), a.begin() + 40);
  for (int i = 0; i < count; ++i) {
    film.push_back(join(a[40 + static_cast<size_t>(i)], b[static_cast<size_t>(i)], (i + 1.0) / (count + 1)));
  }
  film.insert(film.end(), b.begin() + count, b.end());
  return film;
}

TEST(Shots, NothingToFind) {
  EXPECT_THAT(detect_shots(std::vector<cv::Mat>{}), IsEmpty());
  EXPECT_THAT(detect_shots(pan(3, 1)), IsEmpty());
  for (const double speed : {0.0, 0.2, 0.5, 1.0, 2.0, 4.0}) {
    for (uint64_t seed = 1; seed <= 5; ++seed) {
      EXPECT_THAT(detect_shots(pan(seed, 120, speed)), IsEmpty()) << speed << " pixels a frame, " << seed;
    }
  }
  EXPECT_THAT(detect_shots(std::vector<cv::Mat>(100, cv::Mat(72, 128, CV_8UC3, cv::Scalar::all(90)))),
              IsEmpty());
}

TEST(Shots, CutsAreExactAndClean) {
  const auto cut = [](const cv::Mat&, const cv::Mat& b, double) { return b; };
  const std::vector<ShotBoundary> found = detect_shots(joined(0, cut));
  ASSERT_EQ(found.size(), 1U) << testing::PrintToString(found);
  EXPECT_EQ(found[0].frame, 40);
  EXPECT_EQ(found[0].kind, BoundaryKind::kCut);
  EXPECT_EQ(found[0].begin, 40);
  EXPECT_EQ(found[0].end, 40);
  EXPECT_TRUE(found[0].content);
  EXPECT_TRUE(found[0].gradual);
  EXPECT_FALSE(found[0].overlapped());
  EXPECT_GT(found[0].confidence, 0.9);
}

TEST(Shots, DissolvesHaveTheirExtent) {
  for (const int count : {4, 8, 12, 16, 24, 36}) {
    SCOPED_TRACE(count);
    const std::vector<ShotBoundary> found = detect_shots(joined(count, mixed));
    ASSERT_EQ(found.size(), 1U) << testing::PrintToString(found);
    EXPECT_EQ(found[0].kind, BoundaryKind::kDissolve);
    EXPECT_NEAR(static_cast<double>(found[0].begin), 40, 2);
    EXPECT_NEAR(static_cast<double>(found[0].end), 40 + count, 2);
    EXPECT_NEAR(static_cast<double>(found[0].frame), 40 + count / 2.0, 2);
    EXPECT_TRUE(found[0].overlapped());
    EXPECT_TRUE(found[0].gradual);
  }
}

TEST(Shots, FadesAndWipes) {
  const auto fade = [](const cv::Mat& a, const cv::Mat& b, double share) -> cv::Mat {
    const cv::Mat black = cv::Mat::zeros(a.size(), a.type());
    return share < 0.4    ? mixed(a, black, share / 0.4)
           : share <= 0.6 ? black
                          : mixed(black, b, (share - 0.6) / 0.4);
  };
  std::vector<ShotBoundary> found = detect_shots(joined(29, fade));
  ASSERT_EQ(found.size(), 1U) << testing::PrintToString(found);
  EXPECT_EQ(found[0].kind, BoundaryKind::kFade);
  EXPECT_NEAR(static_cast<double>(found[0].begin), 40, 2);
  EXPECT_NEAR(static_cast<double>(found[0].end), 69, 2);
  EXPECT_TRUE(found[0].overlapped());

  for (int direction = 0; direction < 4; ++direction) {
    SCOPED_TRACE(direction);
    const auto wipe = [&](const cv::Mat& a, const cv::Mat& b, double share) {
      cv::Mat out = a.clone();
      const bool across = direction < 2;
      const int all = across ? a.cols : a.rows;
      const int swept = static_cast<int>(all * share);
      const int from = direction % 2 == 0 ? 0 : all - swept;
      const cv::Rect done = across ? cv::Rect(from, 0, swept, a.rows) : cv::Rect(0, from, a.cols, swept);
      b(done).copyTo(out(done));
      return out;
    };
    found = detect_shots(joined(15, wipe));
    ASSERT_EQ(found.size(), 1U) << testing::PrintToString(found);
    EXPECT_EQ(found[0].kind, BoundaryKind::kWipe);
    EXPECT_NEAR(static_cast<double>(found[0].begin), 40, 2);
    EXPECT_NEAR(static_cast<double>(found[0].end), 55, 2);
  }
}

TEST(Shots, FlashesAndFaultsAreNone) {
  std::vector<cv::Mat> film = pan(4, 120, 2);
  double light = 4;
  for (size_t i = 30; i < 40; ++i) {
    film[i] = film[i] * (1 + light);  // and an afterglow
    light *= i < 32 ? 1 : 0.5;
  }
  film[60].setTo(cv::Scalar::all(255));
  film[61].setTo(cv::Scalar::all(255));
  film[90].setTo(cv::Scalar::all(0));
  EXPECT_THAT(detect_shots(film), IsEmpty());
  // Fades from and to black at a film's ends lie between no shots.
  film = pan(4, 80);
  for (int i = 0; i < 15; ++i) {
    film[static_cast<size_t>(i)] *= i / 15.0;
    film[static_cast<size_t>(79 - i)] *= i / 15.0;
  }
  EXPECT_THAT(detect_shots(film), IsEmpty());
}

TEST(Shots, ComeOutWhileTheFilmRuns) {
  ShotDetector detector;
  std::vector<int64_t> early;
  for (uint64_t shot = 0; shot < 12; ++shot) {
    for (const cv::Mat& frame : pan(shot + 10, 50)) {
      detector.add(frame);
    }
    for (const ShotBoundary& boundary : detector.take()) {
      EXPECT_LT(boundary.frame, detector.frames());
      early.push_back(boundary.frame);
    }
  }
  EXPECT_EQ(detector.frames(), 600);
  EXPECT_GE(early.size(), 8U);
  for (const ShotBoundary& boundary : detector.finish()) {
    early.push_back(boundary.frame);
  }
  EXPECT_THAT(early, ElementsAre(50, 100, 150, 200, 250, 300, 350, 400, 450, 500, 550));
}

TEST(Shots, ToyFilms) {
  ToyFilmSettings settings;
  settings.max_frames = 161;
  int64_t expected = 0;
  int64_t right = 0;
  int64_t found = 0;
  for (uint64_t seed = 300; seed < 330; ++seed) {
    const ToyFilm film = make_toy_film(seed, settings);
    ShotDetector detector;
    for (int64_t i = 0; i < film.total_frames(); ++i) {
      detector.add(draw_toy_frame(film, i, settings));
    }
    const std::vector<ShotBoundary> boundaries = detector.finish();
    found += static_cast<int64_t>(boundaries.size());
    for (size_t i = 1; i < film.shots.size(); ++i) {
      ++expected;
      for (const ShotBoundary& b : boundaries) {
        right += b.kind == BoundaryKind::kCut && b.frame == film.shots[i].first_frame ? 1 : 0;
      }
    }
  }
  EXPECT_GE(2.0 * static_cast<double>(right) / static_cast<double>(expected + found), 0.97)
      << right << " right of " << expected << ", " << found << " found";
}

TEST(Shots, RealClipsHaveTheirTwoCuts) {
  const std::filesystem::path folder = std::filesystem::path(MOGA_SOURCE_DIR).parent_path() / "shared/clips";
  if (!std::filesystem::exists(folder / "clip_a.mp4")) {
    GTEST_SKIP() << "no clips in " << folder;
  }
  for (const char* name : {"clip_a.mp4", "clip_b.mp4", "clip_c.mp4"}) {
    SCOPED_TRACE(name);
    VideoReader reader(folder / name, cv::Size(kShotFrameWidth, kShotFrameHeight));
    const std::vector<ShotBoundary> found = detect_shots(reader);
    ASSERT_EQ(found.size(), 2U);
    EXPECT_EQ(found[0].frame, 53);
    EXPECT_EQ(found[1].frame, 105);
    for (const ShotBoundary& boundary : found) {
      EXPECT_EQ(boundary.kind, BoundaryKind::kCut);
      EXPECT_FALSE(boundary.overlapped());
    }
  }
}

TEST(Shots, BadInputIsAnError) {
  ShotDetector detector;
  EXPECT_THROW(detector.add(cv::Mat()), Error);
  EXPECT_THROW(detector.add(cv::Mat(4, 4, CV_8UC1)), Error);
  ShotSettings settings;
  settings.network = "no-such.onnx";
  EXPECT_THROW(ShotDetector{settings}, Error);
}

std::vector<ShotBoundary> two_boundaries() {
  ShotBoundary cut;
  cut.frame = cut.begin = cut.end = 53;
  cut.content = cut.gradual = true;
  cut.confidence = 0.75;
  ShotBoundary dissolve;
  dissolve.frame = 105;
  dissolve.begin = 100;
  dissolve.end = 110;
  dissolve.kind = BoundaryKind::kDissolve;
  dissolve.gradual = true;
  return {cut, dissolve};
}

TEST(ShotReport, ShotsLieBetweenBoundaries) {
  const std::vector<ShotSpan> shots = shots_between(two_boundaries(), 157);
  ASSERT_EQ(shots.size(), 3U);
  EXPECT_EQ(shots[1].first, 53);
  EXPECT_EQ(shots[1].last, 105);
  EXPECT_EQ(shots[1].clean_first, 53);
  EXPECT_EQ(shots[1].clean_last, 100);
  EXPECT_EQ(shots[2].clean_first, 110);
  EXPECT_EQ(shots[2].clean_last, 157);
}

TEST(ShotReport, JsonTableAndEditList) {
  EXPECT_EQ(
      boundary_to_json(two_boundaries()[0], 16).dump(),
      R"({"frame":53,"seconds":3.3125,"kind":"cut","begin":53,"end":53,"overlapped":false,"confidence":0.75,)"
      R"("detectors":["content","gradual"]})");
  EXPECT_FALSE(boundary_to_json(two_boundaries()[0], 0).contains("seconds"));
  EXPECT_EQ(timecode(3661 * 25 + 7, 25), "01:01:01:07");
  EXPECT_EQ(timecode(48, 23.976), "00:00:02:00");
  const std::string table = shots_table(two_boundaries(), 157, 16);
  EXPECT_THAT(table, HasSubstr("00:00:03:05  cut"));
  EXPECT_THAT(table, HasSubstr("100 - 109  overlapped"));
  EXPECT_THAT(table, HasSubstr("3 shots in 157 frames (9.8 s)"));
  const std::string edl = shots_edl(two_boundaries(), 157, 16, "a.mp4");
  EXPECT_THAT(edl, HasSubstr("TITLE: a.mp4\nFCM: NON-DROP FRAME\n"));
  EXPECT_THAT(edl,
              HasSubstr("002  AX       V     C        00:00:03:05 00:00:06:09 00:00:03:05 00:00:06:09\n"));
  EXPECT_THAT(edl, HasSubstr("* COMMENT: dissolve FROM 00:00:06:04 TO 00:00:06:14\n"));
  EXPECT_THROW(shots_edl(two_boundaries(), 157, 0, "a.mp4"), Error);
}

}  // namespace
}  // namespace moga
