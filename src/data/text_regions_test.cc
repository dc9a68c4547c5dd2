#include "data/text_regions.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <opencv2/imgproc.hpp>

#include "base/error.h"
#include "data/text_ocr.h"

namespace moga {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

constexpr int kWidth = 640;
constexpr int kHeight = 360;

// A frame of a scene that moves: smooth texture under a pan, with shapes.
cv::Mat scene(int frame) {
  cv::RNG random(5);
  cv::Mat set(kHeight, 3 * kWidth, CV_32FC3, cv::Scalar(110, 120, 100));
  for (int cells = 6; cells <= 48; cells *= 2) {
    cv::Mat grid(cells / 3, cells, CV_32FC3);
    random.fill(grid, cv::RNG::NORMAL, 0, 40 / std::sqrt(cells / 6.0));
    cv::Mat layer;
    cv::resize(grid, layer, set.size(), 0, 0, cv::INTER_CUBIC);
    set += layer;
  }
  cv::Mat bytes;
  set.convertTo(bytes, CV_8UC3);
  for (int i = 0; i < 40; ++i) {
    const cv::Scalar colour(random.uniform(0, 256), random.uniform(0, 256), random.uniform(0, 256));
    cv::ellipse(bytes, {random.uniform(0, bytes.cols), random.uniform(0, bytes.rows)},
                {random.uniform(8, 50), random.uniform(8, 50)}, random.uniform(0, 180), 0, 360, colour,
                cv::FILLED, cv::LINE_AA);
  }
  return bytes(cv::Rect(37 * frame, 0, kWidth, kHeight)).clone();
}

// White letters with a black outline, as subtitles are burnt in. Returns their box.
cv::Rect write_centred(cv::Mat& frame, const std::string& text, int baseline) {
  const int font = cv::FONT_HERSHEY_SIMPLEX;
  const cv::Size size = cv::getTextSize(text, font, 0.8, 2, nullptr);
  const cv::Point origin((frame.cols - size.width) / 2, baseline);
  cv::putText(frame, text, origin, font, 0.8, cv::Scalar::all(0), 6, cv::LINE_AA);
  cv::putText(frame, text, origin, font, 0.8, cv::Scalar::all(255), 2, cv::LINE_AA);
  return {origin.x, origin.y - size.height, size.width, size.height};
}

cv::Rect draw_logo(cv::Mat& frame) {
  cv::circle(frame, {kWidth - 50, 40}, 20, cv::Scalar(240, 240, 240), 4, cv::LINE_AA);
  cv::line(frame, {kWidth - 62, 52}, {kWidth - 38, 28}, cv::Scalar(240, 60, 60), 5, cv::LINE_AA);
  return {kWidth - 72, 18, 44, 44};
}

double covered(const cv::Rect& region, const cv::Rect& truth) {
  return static_cast<double>((region & truth).area()) / truth.area();
}

TEST(TextRegions, SubtitlesAreFoundWhereTheyStand) {
  TextFinder finder;
  cv::Rect all;
  const std::vector<std::string> lines = {"Where have you been all day", "I went down to the harbour", "",
                                          "Nobody told me about it",     "They never do, you know",    ""};
  for (size_t i = 0; i < lines.size(); ++i) {
    cv::Mat frame = scene(static_cast<int>(i));
    if (!lines[i].empty()) {
      all |= write_centred(frame, lines[i], 325);
    }
    finder.add(frame);
  }
  const std::vector<TextRegion> regions = finder.regions();
  ASSERT_EQ(regions.size(), 1U);
  EXPECT_EQ(regions[0].kind, TextKind::kSubtitle);
  EXPECT_GT(covered(regions[0].box, all), 0.95);
  EXPECT_LT(regions[0].box.area(), 3 * all.area());
  EXPECT_GE(regions[0].share, 0.5);
  EXPECT_GT(regions[0].confidence, 0.7);

  // The crop keeps 16:9 and leaves the subtitles below.
  const auto crop = largest_crop(kWidth, kHeight, {}, {regions[0].box}, 0, 0.5);
  ASSERT_TRUE(crop.has_value());
  EXPECT_LE(crop->br().y, regions[0].box.y);
  EXPECT_NEAR(static_cast<double>(crop->width) / crop->height, 16.0 / 9, 0.02);
}

TEST(TextRegions, LogosAndStandingTextAreWatermarks) {
  TextFinder finder;
  cv::Rect logo;
  for (int i = 0; i < 8; ++i) {
    cv::Mat frame = scene(i);
    logo = draw_logo(frame);
    cv::putText(frame, "CHANNEL 7", {16, 36}, cv::FONT_HERSHEY_SIMPLEX, 0.8, cv::Scalar::all(250), 2,
                cv::LINE_AA);
    finder.add(frame);
  }
  const std::vector<TextRegion> regions = finder.regions();
  const cv::Rect text(16, 18, 140, 18);
  double logo_covered = 0;
  double text_covered = 0;
  for (const TextRegion& region : regions) {
    EXPECT_EQ(region.kind, TextKind::kWatermark) << region.text;
    EXPECT_LT(region.box.area(), kWidth * kHeight / 20);
    logo_covered = std::max(logo_covered, covered(region.box, logo));
    text_covered = std::max(text_covered, covered(region.box, text));
    if (covered(region.box, text) > 0.5) {
      EXPECT_THAT(region.text, HasSubstr("CHANNEL"));
    }
  }
  EXPECT_GT(logo_covered, 0.9);
  EXPECT_GT(text_covered, 0.9);
  EXPECT_LE(regions.size(), 3U);
}

TEST(TextRegions, CleanFilmsHaveNone) {
  TextFinder moving;
  TextFinder still;
  for (int i = 0; i < 6; ++i) {
    moving.add(scene(i));
    still.add(scene(3));
  }
  EXPECT_THAT(moving.regions(), IsEmpty());
  EXPECT_THAT(still.regions(), IsEmpty());
}

TEST(TextRegions, BordersAreNotThePicture) {
  TextFinder finder;
  for (int i = 0; i < 6; ++i) {
    cv::Mat frame = scene(i);
    frame.rowRange(0, 44).setTo(cv::Scalar::all(0));
    frame.rowRange(kHeight - 44, kHeight).setTo(cv::Scalar::all(0));
    finder.add(frame, cv::Rect(0, 44, kWidth, kHeight - 88));
  }
  EXPECT_THAT(finder.regions(), IsEmpty());
}

TEST(TextRegions, BadInputIsAnError) {
  TextFinder finder;
  EXPECT_THROW(finder.add(cv::Mat()), Error);
  finder.add(scene(0));
  EXPECT_THROW(finder.add(cv::Mat(100, 100, CV_8UC3)), Error);
  TextSettings settings;
  settings.static_share = 2;
  EXPECT_THROW(TextFinder{settings}, Error);
}

// Every place at every size, one after the other.
int largest_area(int width, int height, const std::vector<cv::Rect>& boxes, double aspect) {
  int best = 0;
  for (int w = 2; w <= width; w += 2) {
    const int h = 2 * static_cast<int>(std::lround(w / aspect / 2));
    for (int y = 0; y + h <= height; y += 2) {
      for (int x = 0; x + w <= width; x += 2) {
        const cv::Rect crop(x, y, w, h);
        const bool free =
            std::none_of(boxes.begin(), boxes.end(), [&](const cv::Rect& b) { return !(crop & b).empty(); });
        best = free ? std::max(best, crop.area()) : best;
      }
    }
  }
  return best;
}

TEST(LargestCrop, IsTheLargestThereIs) {
  cv::RNG random(3);
  for (int round = 0; round < 60; ++round) {
    std::vector<cv::Rect> boxes;
    for (int i = random.uniform(0, 5); i > 0; --i) {
      boxes.emplace_back(random.uniform(-5, 60), random.uniform(-5, 34), random.uniform(1, 20),
                         random.uniform(1, 12));
    }
    const auto crop = largest_crop(64, 36, {}, boxes, 0, 0);
    const int best = largest_area(64, 36, boxes, 64.0 / 36);
    ASSERT_TRUE(crop.has_value() || best == 0);
    if (crop) {
      for (const cv::Rect& box : boxes) {
        EXPECT_TRUE((*crop & box).empty());
      }
      EXPECT_EQ(*crop & cv::Rect(0, 0, 64, 36), *crop);
      EXPECT_EQ((crop->x | crop->y | crop->width | crop->height) & 1, 0);
      // Rounding of the sides may cost one step of two pixels.
      EXPECT_GE(crop->area(), 0.85 * best - 8) << "round " << round;
      EXPECT_NEAR(crop->width * 36.0 / 64, crop->height, 1.01);
    }
  }
}

TEST(LargestCrop, BordersShareAndAspect) {
  // Nothing in the way: all of the picture inside the borders.
  EXPECT_EQ(largest_crop(1920, 1080, {0, 140, 1920, 800}, {}, 0, 0.9), cv::Rect(0, 140, 1920, 800));
  // Another aspect ratio, in the middle.
  EXPECT_EQ(largest_crop(1920, 1080, {}, {}, 1, 0.5), cv::Rect(420, 0, 1080, 1080));
  // Too little is left.
  EXPECT_FALSE(largest_crop(1920, 1080, {}, {{0, 300, 1920, 400}}, 0, 0.5).has_value());
  EXPECT_FALSE(largest_crop(100, 100, {}, {{0, 0, 100, 100}}, 0, 0).has_value());
  EXPECT_THROW(largest_crop(100, 100, {50, 50, 100, 100}, {}, 0, 0), Error);
  EXPECT_THROW(largest_crop(0, 0, {}, {}, 0, 0), Error);
}

}  // namespace
}  // namespace moga
