// The shot benchmark with few and short films, of other seeds than those that the detector's weights were
// fitted to.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/error.h"
#include "bench/shots/score.h"
#include "media/video.h"

namespace moga::bench {
namespace {

// A film of each category through encoder, decoder and detector.
Score measure(uint64_t first_seed, double seconds) {
  const std::filesystem::path file =
      std::filesystem::temp_directory_path() / fmt::format("moga_shots_bench_{}.mp4", getpid());
  const std::vector<std::filesystem::path> clips = real_clips();
  Score total;
  uint64_t seed = first_seed;
  for (const Category& category : categories()) {
    ++seed;
    if (category.clips && clips.empty()) {
      continue;
    }
    const Film film(category, seed, seconds, clips);
    write_film(film, category, file);
    VideoReader reader(file, cv::Size(kShotFrameWidth, kShotFrameHeight));
    const Score one =
        score(detect_shots(reader), film.truth(), static_cast<double>(film.frames()) / category.fps / 60);
    std::filesystem::remove(file);
    fmt::print("{:<14} cuts {}/{}/{} transitions {}/{}/{} false alarms {}\n", category.name,
               one.cuts.expected, one.cuts.found, one.cuts.right, one.transitions.expected,
               one.transitions.found, one.transitions.right, one.false_alarms);
    total += one;
  }
  return total;
}

TEST(ShotBenchmark, GoalsAreMet) {
  if (real_clips().empty()) {
    // Painted scenes alone are harder than what is filmed, and false alarms may be too many there
    // (docs/data.md).
    GTEST_SKIP() << "no real clips beside the source folder (../shared/clips)";
  }
  const Score total = measure(900'000, 14);
  EXPECT_GE(total.cuts.expected, 25);
  EXPECT_GE(total.transitions.expected, 25);
  EXPECT_GE(total.cuts.f1(), 0.97) << total.cuts.right << " right of " << total.cuts.expected << ", "
                                   << total.cuts.found << " found";
  EXPECT_GE(total.transitions.f1(), 0.85)
      << total.transitions.right << " right of " << total.transitions.expected << ", "
      << total.transitions.found << " found";
  // Less than one in ten minutes; in fewer minutes one may happen.
  EXPECT_LE(total.false_alarms, 1) << "in " << total.minutes << " minutes";
}

TEST(ShotBenchmark, ScoresPairEachBoundaryOnce) {
  const auto found = [](BoundaryKind kind, int64_t begin, int64_t end) {
    ShotBoundary boundary;
    boundary.kind = kind;
    boundary.begin = begin;
    boundary.end = end;
    boundary.frame = (begin + end) / 2;
    return boundary;
  };
  const std::vector<Truth> truth = {{BoundaryKind::kCut, 50, 50},
                                    {BoundaryKind::kCut, 100, 100},
                                    {BoundaryKind::kDissolve, 200, 210},
                                    {BoundaryKind::kFade, 300, 320}};
  const Score s = score({found(BoundaryKind::kCut, 51, 51), found(BoundaryKind::kCut, 52, 52),
                         found(BoundaryKind::kCut, 104, 104), found(BoundaryKind::kCut, 205, 205),
                         found(BoundaryKind::kWipe, 202, 210), found(BoundaryKind::kFade, 312, 340)},
                        truth, 1);
  EXPECT_EQ(s.cuts.expected, 2);
  EXPECT_EQ(s.cuts.found, 4);
  EXPECT_EQ(s.cuts.right, 1);
  EXPECT_EQ(s.transitions.found, 2);
  EXPECT_EQ(s.transitions.right, 1);  // 8 of 10 frames; but only 8 of 40 of the fade
  EXPECT_EQ(s.kinds_right, 0);
  EXPECT_EQ(s.false_alarms, 1);  // frame 104
}

}  // namespace
}  // namespace moga::bench
