#include "prepare/scores.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <opencv2/imgproc.hpp>

#include "base/atomic_file.h"
#include "base/error.h"

namespace moga {
namespace {

namespace fs = std::filesystem;

// Soft blobs: texture of every size up to that of `blur`, the same for the same seed.
cv::Mat texture(int width, int height, double blur, uint64_t seed = 1) {
  cv::Mat noise(height, width, CV_32FC3);
  cv::RNG random(seed);
  random.fill(noise, cv::RNG::NORMAL, 0, 1);
  cv::GaussianBlur(noise, noise, {}, blur);
  cv::normalize(noise, noise, 40, 215, cv::NORM_MINMAX);
  cv::Mat out;
  noise.convertTo(out, CV_8UC3);
  return out;
}

Scores scores_of(const std::vector<cv::Mat>& frames, double fps = 10, double samples = 100) {
  LearnedScorers none({});
  ScoreMeter meter(samples, none);
  for (size_t i = 0; i < frames.size(); ++i) {
    meter.add(frames[i], static_cast<double>(i) / fps);
  }
  return meter.scores();
}

Scores scores_of(const cv::Mat& picture) {
  return scores_of(std::vector<cv::Mat>{picture});
}

cv::Mat with_noise(const cv::Mat& picture, double sigma) {
  cv::Mat noise(picture.size(), CV_16SC3);
  cv::RNG random(5);
  random.fill(noise, cv::RNG::NORMAL, 0, sigma);
  cv::Mat sum;
  cv::add(picture, noise, sum, cv::noArray(), CV_8UC3);
  return sum;
}

TEST(Scores, SharpnessFallsWithBlur) {
  const cv::Mat sharp = texture(480, 272, 1.5);
  cv::Mat soft;
  cv::GaussianBlur(sharp, soft, {}, 3);
  EXPECT_GT(scores_of(sharp).sharpness, 4 * scores_of(soft).sharpness);
}

TEST(Scores, ExposureIsMeasuredInSharesAndLevels) {
  cv::Mat picture(272, 480, CV_8UC3, cv::Scalar(100, 100, 100));
  picture(cv::Rect(0, 0, 120, 272)).setTo(cv::Scalar(0, 0, 0));
  picture(cv::Rect(120, 0, 48, 272)).setTo(cv::Scalar(255, 255, 255));
  const Scores scores = scores_of(picture);
  EXPECT_NEAR(scores.clipped_low, 0.25, 1e-6);
  EXPECT_NEAR(scores.clipped_high, 0.1, 1e-6);
  EXPECT_NEAR(scores.brightness, 0.65 * 100 + 0.1 * 255, 0.1);
  EXPECT_NEAR(scores_of(cv::Mat(272, 480, CV_8UC3, cv::Scalar(9, 9, 9))).contrast, 0, 1e-6);
}

TEST(Scores, ColourfulnessIsZeroForGreyAndKnownForAHalf) {
  EXPECT_NEAR(scores_of(cv::Mat(272, 480, CV_8UC3, cv::Scalar(90, 90, 90))).colourfulness, 0, 1e-6);
  // Half red, half cyan: rg is +255 and -255, yb is +-127.5; means 0, deviations 255 and 127.5.
  cv::Mat two(272, 480, CV_8UC3, cv::Scalar(255, 0, 0));
  two(cv::Rect(0, 0, 240, 272)).setTo(cv::Scalar(0, 255, 255));
  EXPECT_NEAR(scores_of(two).colourfulness, std::hypot(255.0, 127.5), 0.01);
}

TEST(Scores, NoiseIsEstimatedInGreyLevels) {
  const cv::Mat clean = texture(480, 272, 20);
  EXPECT_LT(scores_of(clean).noise, 1);
  for (const double sigma : {3.0, 8.0}) {
    // Luma of three independent channels: sigma times the root of the squared weights.
    const double luma = sigma * std::sqrt(0.299 * 0.299 + 0.587 * 0.587 + 0.114 * 0.114);
    EXPECT_NEAR(scores_of(with_noise(clean, sigma)).noise, luma, 0.2 * luma) << sigma;
  }
}

TEST(Scores, MotionIsInPercentOfTheWidthASecond) {
  const cv::Mat wide = texture(960, 272, 6);
  for (const int step : {3, 6, 12}) {
    std::vector<cv::Mat> frames;
    for (int i = 0; i < 12; ++i) {
      frames.push_back(wide(cv::Rect(i * step, 0, 480, 272)));
    }
    const double expected = 100.0 * step / 480 * 10;  // pixels a frame at ten frames a second
    const Scores scores = scores_of(frames);
    EXPECT_NEAR(scores.motion, expected, 0.15 * expected) << step;
    EXPECT_EQ(scores.still, 0);
    EXPECT_EQ(scores.duplicates, 0);
  }
}

TEST(Scores, StillAndRepeatedFramesAreCounted) {
  const cv::Mat wide = texture(960, 272, 6);
  std::vector<cv::Mat> frames;
  for (int i = 0; i < 21; ++i) {  // every second frame repeats the one before
    frames.push_back(wide(cv::Rect(i / 2 * 8, 0, 480, 272)));
  }
  EXPECT_NEAR(scores_of(frames).duplicates, 0.5, 1e-6);
  const std::vector<cv::Mat> same(10, frames[0]);
  const Scores scores = scores_of(same);
  EXPECT_EQ(scores.duplicates, 1);
  EXPECT_EQ(scores.still, 1);
  EXPECT_EQ(scores.motion, 0);
}

TEST(Scores, SamplesAreTakenAtTheirRate) {
  // Bright frames fall between the samples.
  std::vector<cv::Mat> frames;
  for (int i = 0; i < 40; ++i) {
    frames.emplace_back(272, 480, CV_8UC3, cv::Scalar::all(i % 10 == 0 ? 50 : 200));
  }
  EXPECT_NEAR(scores_of(frames, 10, 1).brightness, 50, 1e-6);
}

TEST(Scores, ColoursTellScenesApart) {
  LearnedScorers none({});
  const auto colours = [&](const cv::Mat& picture) {
    ScoreMeter meter(2, none);
    meter.add(picture, 0);
    return meter.colours();
  };
  const cv::Mat red(272, 480, CV_8UC3, cv::Scalar(200, 40, 40));
  const cv::Mat dark_red(272, 480, CV_8UC3, cv::Scalar(190, 45, 45));
  const cv::Mat blue(272, 480, CV_8UC3, cv::Scalar(40, 40, 200));
  EXPECT_EQ(colour_agreement(colours(red), colours(red)), 1);
  EXPECT_GT(colour_agreement(colours(red), colours(dark_red)), 0.9);
  EXPECT_LT(colour_agreement(colours(red), colours(blue)), 0.1);
}

TEST(Borders, AreFoundUnderNoiseAndSubtitlesAndDarkScenes) {
  BorderMeter meter;
  for (int i = 0; i < 100; ++i) {
    cv::Mat frame(270, 480, CV_8UC3, cv::Scalar(16, 16, 16));
    texture(480, 202, 3, static_cast<uint64_t>(i) + 1).copyTo(frame(cv::Rect(0, 34, 480, 202)));
    if (i % 3 == 0) {
      frame(cv::Rect(0, 34, 480, 101)).setTo(cv::Scalar(3, 3, 3));  // half of the picture is night
    }
    if (i == 50) {
      frame.setTo(cv::Scalar(250, 250, 250));  // a flash
    }
    meter.add(with_noise(frame, 2));
  }
  const PixelBox box = meter.box(1920, 1080);
  EXPECT_EQ(box.x, 0);
  EXPECT_EQ(box.width, 1920);
  EXPECT_GE(box.y, 34 * 4);
  EXPECT_LE(box.y, 36 * 4);
  EXPECT_LE(box.y + box.height, 236 * 4);
  EXPECT_GE(box.y + box.height, 234 * 4);
}

TEST(Borders, AVideoWithoutBordersOrWithoutLightIsWhole) {
  BorderMeter bright;
  bright.add(texture(480, 270, 3));
  EXPECT_EQ(bright.box(832, 480).width, 832);
  EXPECT_EQ(bright.box(832, 480).height, 480);
  BorderMeter black;
  black.add(cv::Mat(270, 480, CV_8UC3, cv::Scalar(0, 0, 0)));
  EXPECT_EQ(black.box(832, 480).height, 480);
}

// Just enough of protocol buffers to write an ONNX file: fields with bytes, fields with numbers.
std::string number(int field, uint64_t value) {
  std::string out(1, static_cast<char>(field << 3));
  for (; value >= 128; value >>= 7U) {
    out += static_cast<char>(value | 128U);
  }
  return out + static_cast<char>(value);
}
std::string bytes(int field, const std::string& content) {
  std::string out = number(field, content.size());
  out[0] = static_cast<char>(field << 3 | 2);
  return out + content;
}
std::string tensor(const std::string& name, const std::vector<int>& shape) {
  std::string dims;
  for (const int side : shape) {
    dims += bytes(1, number(1, static_cast<uint64_t>(side)));
  }
  return bytes(1, name) + bytes(2, bytes(1, number(1, 1) + bytes(2, dims)));
}

// Means of red, green and blue: a network that anybody can check.
std::string mean_colour_network(int side) {
  const std::string node =
      bytes(1, "picture") + bytes(2, "means") + bytes(3, "pool") + bytes(4, "GlobalAveragePool");
  const std::string graph = bytes(1, node) + bytes(2, "g") +
                            bytes(11, tensor("picture", {1, 3, side, side})) +
                            bytes(12, tensor("means", {1, 3, 1, 1}));
  return number(1, 7) + bytes(7, graph) + bytes(8, number(2, 11));
}

TEST(LearnedScores, AnOnnxNetworkScoresPictures) {
  const fs::path folder = fs::temp_directory_path() / fmt::format("moga_onnx_{}", getpid());
  write_file_atomic(folder / "mean.onnx", mean_colour_network(32));
  LearnedScoreConfig first;
  first.name = "red";
  first.file = (folder / "mean.onnx").string();
  first.width = 32;
  first.height = 32;
  first.mean = {0.5, 0, 0};
  first.std = {0.25, 1, 1};
  LearnedScoreConfig second = first;
  second.name = "hue";
  second.mean = {0, 0, 0};
  second.std = {1, 1, 1};
  second.expectation = true;
  LearnedScorers scorers({first, second});
  ScoreMeter meter(100, scorers);
  meter.add(cv::Mat(270, 480, CV_8UC3, cv::Scalar(255, 51, 0)), 0);
  meter.add(cv::Mat(270, 480, CV_8UC3, cv::Scalar(51, 51, 0)), 1);
  const Scores scores = meter.scores();
  ASSERT_EQ(scores.learned.size(), 2U);
  EXPECT_EQ(scores.learned[0].name, "red");
  EXPECT_NEAR(scores.learned[0].value, ((1.0 - 0.5) / 0.25 + (0.2 - 0.5) / 0.25) / 2, 1e-4);
  // Weights (1, 0.2, 0) and (0.2, 0.2, 0): means 1.1667 and 1.5.
  EXPECT_NEAR(scores.learned[1].value, (1.4 / 1.2 + 0.6 / 0.4) / 2, 1e-4);

  write_file_atomic(folder / "broken.onnx", "not a network");
  first.file = (folder / "broken.onnx").string();
  EXPECT_THROW(LearnedScorers({first}), Error);
  fs::remove_all(folder);
}

}  // namespace
}  // namespace moga
