#include "data/toy_export.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <opencv2/imgcodecs.hpp>

#include "base/atomic_file.h"
#include "base/error.h"
#include "data/cuts.h"
#include "media/video.h"

namespace moga {
namespace {

class ToyExport : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / fmt::format("moga_toy_export_{}", getpid());
    settings_.max_frames = 61;
    settings_.min_shots = 4;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path folder_;
  ToyFilmSettings settings_;
};

TEST_F(ToyExport, FilesTellTheSameFilm) {
  const ToyFilm film = make_toy_film(5, settings_);
  int64_t frames = 0;
  write_toy_film(film, settings_, folder_, "film", [&] { ++frames; });
  EXPECT_EQ(frames, film.total_frames());

  const FilmScript script = load_script(folder_ / "film.yaml");
  ASSERT_EQ(script.shots.size(), film.shots.size());
  EXPECT_EQ(script.seed, film.seed);
  EXPECT_EQ(script.width, settings_.width);
  for (size_t i = 0; i < film.shots.size(); ++i) {
    EXPECT_EQ(script.shots[i].text, film.shots[i].caption);
    EXPECT_EQ(script.shots[i].first_frame, film.shots[i].first_frame);
    EXPECT_EQ(script.shots[i].frame_count, film.shots[i].frame_count);
  }

  const auto json = nlohmann::json::parse(read_file(folder_ / "film.json"));
  EXPECT_EQ(json["frames"], film.total_frames());
  EXPECT_EQ(json["shots"].size(), film.shots.size());
  EXPECT_EQ(json["characters"][0]["name"], film.characters[0].name);
  EXPECT_EQ(json["characters"][0]["looks"]["hat colour"],
            attribute_values(Attribute::kHatColour)[static_cast<size_t>(film.characters[0].looks[3])]);

  // The video shows what was drawn (PSNR of the codec at its setting), and its cuts are where the JSON says.
  VideoReader reader(folder_ / "film.mp4");
  CutDetector detector;
  double squares = 0;
  int64_t count = 0;
  while (const auto frame = reader.next()) {
    const double error = cv::norm(*frame, draw_toy_frame(film, count, settings_), cv::NORM_L2);
    squares += error * error / static_cast<double>(frame->total() * 3);
    detector.add(*frame);
    ++count;
  }
  EXPECT_EQ(count, film.total_frames());
  EXPECT_GT(10 * std::log10(255.0 * 255.0 * static_cast<double>(count) / squares), 28);
  EXPECT_EQ(nlohmann::json(detector.cuts()), json["cuts"]);

  const cv::Mat strip = cv::imread((folder_ / "film_masks.png").string(), cv::IMREAD_GRAYSCALE);
  ASSERT_EQ(strip.rows, film.total_frames() * settings_.height);
  for (const int f : {0, 17}) {
    const auto height = static_cast<int>(settings_.height);
    EXPECT_EQ(cv::norm(strip.rowRange(f * height, (f + 1) * height), draw_toy_mask(film, f, settings_),
                       cv::NORM_INF),
              0);
  }
  // Compact: a bit a pixel, compressed.
  EXPECT_LT(std::filesystem::file_size(folder_ / "film_masks.png"), strip.total() / 20);
}

TEST_F(ToyExport, SameFilmSameFiles) {
  const ToyFilm film = make_toy_film(6, settings_);
  write_toy_film(film, settings_, folder_, "a");
  write_toy_film(film, settings_, folder_, "b");
  for (const char* end : {".mp4", ".yaml", "_masks.png"}) {
    EXPECT_EQ(read_file(folder_ / (std::string("a") + end)), read_file(folder_ / (std::string("b") + end)))
        << end;
  }
}

TEST_F(ToyExport, TooManyMaskRowsAreAnError) {
  settings_.width = 64;
  settings_.height = 4096;
  settings_.min_frames = settings_.max_frames = 481;
  const ToyFilm film = make_toy_film(1, settings_);
  EXPECT_THROW(write_toy_film(film, settings_, folder_, "film"), Error);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "film.mp4"));
}

}  // namespace
}  // namespace moga
