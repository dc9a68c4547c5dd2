#include "media/picture.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <opencv2/imgproc.hpp>
#include <set>

#include "base/atomic_file.h"
#include "base/error.h"
#include "media/text_drawing.h"

namespace moga {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::EndsWith;

cv::Mat noise(int rows, int cols) {
  cv::Mat picture(rows, cols, CV_8UC3);
  cv::RNG random(3);
  random.fill(picture, cv::RNG::UNIFORM, 0, 256);
  return picture;
}

class Picture : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / fmt::format("moga_picture_{}", getpid());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path folder_;
};

TEST_F(Picture, PngKeepsEveryPixelAndTheChannelOrder) {
  const cv::Mat picture = noise(37, 53);
  write_png(folder_ / "a.png", picture);
  EXPECT_EQ(cv::norm(read_image(folder_ / "a.png"), picture, cv::NORM_INF), 0);
  write_png(folder_ / "red.png", cv::Mat(2, 2, CV_8UC3, cv::Scalar(255, 0, 0)));
  EXPECT_EQ(read_image(folder_ / "red.png").at<cv::Vec3b>(0, 0), cv::Vec3b(255, 0, 0));
}

TEST_F(Picture, BadPicturesAreErrors) {
  EXPECT_THROW(write_png(folder_ / "a.png", cv::Mat()), Error);
  EXPECT_THROW(write_png(folder_ / "a.png", cv::Mat(3, 3, CV_8UC1)), Error);
  EXPECT_THROW(read_image(folder_ / "none.png"), Error);
  write_file_atomic(folder_ / "b.png", "");
  EXPECT_THROW(read_image(folder_ / "b.png"), Error);
  write_file_atomic(folder_ / "b.png", "not a picture");
  EXPECT_THROW(read_image(folder_ / "b.png"), Error);
}

TEST(TextDrawing, ToAscii) {
  EXPECT_EQ(to_ascii("caf\xc3\xa9 \xe2\x80\x93 \xe2\x80\x9cyes\xe2\x80\x9d\n\xe4\xb8\xad\xf0\x9f\x8e\xac!"),
            "cafe - \"yes\" ?"
            "?!");
  EXPECT_EQ(to_ascii("\xff\xc3"), "??");
}

TEST(TextDrawing, WrapsAtSpacesAndSaysWhatIsCut) {
  const TextStyle style{10, cv::Scalar(255, 255, 255), 1};
  const int width = text_width("one two", style);
  EXPECT_THAT(wrap_text("one two  three", style, width, 9), ElementsAre("one two", "three"));
  EXPECT_THAT(wrap_text("", style, width, 9), ElementsAre());
  for (const std::string& line : wrap_text(std::string(200, 'w'), style, width, 99)) {
    EXPECT_LE(text_width(line, style), width);
  }
  const auto cut = wrap_text("one two one two one two one two", style, width, 2);
  ASSERT_EQ(cut.size(), 2U);
  EXPECT_THAT(cut[1], EndsWith("..."));
  EXPECT_LE(text_width(cut[1], style), width);
}

TEST(TextDrawing, DrawsInsideThePictureOnly) {
  cv::Mat picture(20, 40, CV_8UC3, cv::Scalar(0, 0, 0));
  draw_text(picture, "A long line that leaves the picture", 5, 15, {10, cv::Scalar(255, 255, 255), 1});
  draw_text(picture, "outside", -500, -500, {10, cv::Scalar(255, 255, 255), 1});
  EXPECT_GT(cv::sum(picture)[0], 0);
}

TEST(ContactSheet, ThumbnailsStandWholeInTheSheet) {
  const cv::Mat frame = noise(40, 64);
  ContactRow row;
  row.frames = {frame, frame, frame};
  row.heading = "Shot 1";
  row.caption = "A robot walks.";
  const cv::Mat sheet = contact_sheet("Title", {row, row}, 64);
  cv::Mat match;
  cv::matchTemplate(sheet, frame, match, cv::TM_SQDIFF);
  int found = 0;
  for (int y = 0; y < match.rows; ++y) {
    for (int x = 0; x < match.cols; ++x) {
      found += match.at<float>(y, x) < 1e4F ? 1 : 0;  // noise elsewhere gives about 1e8
    }
  }
  EXPECT_EQ(found, 6);
}

TEST(ContactSheet, TextChangesTheSheetAndLongTextMakesItTaller) {
  ContactRow row;
  row.frames = {noise(40, 64)};
  const cv::Mat plain = contact_sheet("", {row}, 64);
  row.caption = "A robot walks.";
  const cv::Mat captioned = contact_sheet("", {row}, 64);
  EXPECT_GT(captioned.rows, plain.rows);
  for (int i = 0; i < 5; ++i) {
    row.caption += " A robot walks through a forest of tall trees.";
  }
  EXPECT_GT(contact_sheet("", {row}, 64).rows, captioned.rows);
}

TEST(ContactSheet, OddInputs) {
  EXPECT_FALSE(contact_sheet("", {}).empty());
  EXPECT_FALSE(contact_sheet("Only a title", {ContactRow{{}, "No frames", "text"}}).empty());
  EXPECT_THROW(contact_sheet("", {ContactRow{{noise(4, 4), noise(4, 6)}, "", ""}}), Error);
  EXPECT_THROW(contact_sheet("", {ContactRow{{cv::Mat()}, "", ""}}), Error);
  EXPECT_THROW(contact_sheet("", {}, 0), Error);
  EXPECT_THROW(contact_sheet("", std::vector<ContactRow>(1000, ContactRow{{noise(40, 64)}, "", ""})), Error);
}

TEST(GroupColours, AreDistinct) {
  std::set<std::array<uint8_t, 3>> colours;
  for (int64_t group = 0; group < 32; ++group) {
    colours.insert(group_colour(group));
  }
  EXPECT_EQ(colours.size(), 32U);
  EXPECT_EQ(group_colour(32), group_colour(0));
  EXPECT_EQ(colours.count(group_colour(-1)), 0U);
}

TEST(DrawGroups, ColoursCellsAndMarksBorders) {
  const cv::Mat black(40, 60, CV_8UC3, cv::Scalar(0, 0, 0));
  const cv::Mat out = draw_groups(black, {0, 0, 1, 0, 2, 1}, 2, 3, 1.0);
  const auto colour = [](int64_t group) {
    const auto rgb = group_colour(group);
    return cv::Vec3b(rgb[0], rgb[1], rgb[2]);
  };
  EXPECT_EQ(out.at<cv::Vec3b>(10, 10), colour(0));
  EXPECT_EQ(out.at<cv::Vec3b>(10, 19), colour(0));  // no border inside a group
  EXPECT_EQ(out.at<cv::Vec3b>(10, 50), colour(1));
  EXPECT_EQ(out.at<cv::Vec3b>(30, 30), colour(2));
  EXPECT_NE(out.at<cv::Vec3b>(10, 39), colour(0));
  EXPECT_EQ(out.at<cv::Vec3b>(10, 40), colour(1));
}

TEST(DrawGroups, ZeroStrengthIsThePicture) {
  const cv::Mat picture = noise(40, 60);
  EXPECT_EQ(cv::norm(draw_groups(picture, {0, 1, 2, 3, 4, 5}, 2, 3, 0), picture, cv::NORM_INF), 0);
}

TEST(DrawGroups, SizesThatDoNotDivide) {
  const cv::Mat picture = noise(41, 61);
  EXPECT_EQ(draw_groups(picture, std::vector<int64_t>(15, 0), 3, 5).size(), picture.size());
  EXPECT_THROW(draw_groups(picture, {0, 1}, 3, 5), Error);
  EXPECT_THROW(draw_groups(picture, {}, 0, 0), Error);
  EXPECT_THROW(draw_groups(picture, {0}, 1, 1, 2.0), Error);
  EXPECT_THROW(draw_groups(picture, std::vector<int64_t>(42), 42, 1), Error);
}

}  // namespace
}  // namespace moga
