// What strangers' videos are like: variable rates, seeking without an index, high dynamic range, interlacing,
// damage. The ffmpeg program makes them; where it is missing these tests are skipped.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <opencv2/imgproc.hpp>

#include "base/atomic_file.h"
#include "base/error.h"
#include "media/tone_map.h"
#include "media/video.h"

namespace moga {
namespace {

namespace fs = std::filesystem;

class OddVideos : public testing::Test {
 protected:
  void SetUp() override {
    if (std::system("ffmpeg -version > /dev/null 2>&1") != 0) {
      GTEST_SKIP() << "no ffmpeg program to make odd videos with";
    }
    folder_ = fs::temp_directory_path() / fmt::format("moga_odd_{}", getpid());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path make(const std::string& name, const std::string& arguments) const {
    const std::string command =
        "ffmpeg -nostdin -v error -y " + arguments + " \"" + (folder_ / name).string() + "\"";
    EXPECT_EQ(WEXITSTATUS(std::system(command.c_str())), 0) << command;
    return folder_ / name;
  }

  static std::vector<double> times_of(const fs::path& path) {
    VideoReader reader(path);
    std::vector<double> times;
    while (reader.advance()) {
      times.push_back(reader.seconds());
    }
    return times;
  }

  fs::path folder_;
};

double difference(const cv::Mat& a, const cv::Mat& b) {
  return cv::norm(a, b, cv::NORM_L1) / static_cast<double>(a.total() * 3);
}

TEST_F(OddVideos, FramesComeWithTheirTimes) {
  // 3 s at 10 fps, of which every frame of the second second is left out but one.
  const fs::path path = make("vfr.mkv",
                             "-f lavfi -i testsrc=r=10:s=128x80:d=3 -vf \"select='lt(n,11)+gte(n,20)'\" "
                             "-fps_mode vfr -c:v libx264 -bf 2");
  const auto times = times_of(path);
  ASSERT_EQ(times.size(), 21U);
  for (size_t i = 0; i < times.size(); ++i) {
    EXPECT_NEAR(times[i], i < 11 ? 0.1 * static_cast<double>(i) : 2 + 0.1 * static_cast<double>(i - 11), 2e-3)
        << i;
  }
}

TEST_F(OddVideos, TimesStartAtTheFirstFrame) {
  const fs::path path =
      make("late.ts", "-f lavfi -i testsrc=r=10:s=128x80:d=1 -c:v libx264 -output_ts_offset 500 -f mpegts");
  const auto times = times_of(path);
  ASSERT_EQ(times.size(), 10U);
  EXPECT_NEAR(times[0], 0, 1e-6);
  EXPECT_NEAR(times[9], 0.9, 2e-3);
}

// With a good index, with B frames and one key frame in ten, in a stream without an index, and in one without
// times.
TEST_F(OddVideos, SeekingGivesTheFrameThatIsOnScreen) {
  for (const char* name : {"a.mp4", "a.mkv", "a.ts", "a.h264"}) {
    const fs::path path =
        make(name, "-f lavfi -i testsrc2=r=25:s=128x80:d=4 -c:v libx264 -g 10 -bf 3 -x264-params scenecut=0");
    std::vector<cv::Mat> frames;
    std::vector<double> times;
    VideoReader all(path);
    while (all.advance()) {
      frames.push_back(all.picture());
      times.push_back(all.seconds());
    }
    ASSERT_EQ(frames.size(), 100U) << name;
    VideoReader reader(path);
    cv::RNG random(3);
    for (int i = 0; i < 20; ++i) {
      const auto wanted = static_cast<size_t>(random.uniform(0, 99));
      reader.seek(times[wanted] + random.uniform(0.0, 0.9) * (times[wanted + 1] - times[wanted] - 2e-3));
      for (size_t next = wanted; next < std::min<size_t>(wanted + 3, 100); ++next) {
        ASSERT_TRUE(reader.advance()) << name << " " << wanted;
        EXPECT_NEAR(reader.seconds(), times[next], 1e-6) << name << " " << wanted;
        EXPECT_EQ(difference(reader.picture(), frames[next]), 0) << name << " " << wanted;
      }
    }
    reader.seek(-5);
    ASSERT_TRUE(reader.advance());
    EXPECT_EQ(difference(reader.picture(), frames[0]), 0) << name;
    reader.seek(1000);
    ASSERT_TRUE(reader.advance());
    EXPECT_EQ(difference(reader.picture(), frames[99]), 0) << name;
    EXPECT_FALSE(reader.advance());
  }
}

TEST_F(OddVideos, PicturesCanBeScaled) {
  const fs::path path =
      make("a.mp4", "-f lavfi -i testsrc2=r=5:s=640x400:d=1 -c:v libx264 -crf 1 -pix_fmt yuv420p");
  const cv::Mat whole = *VideoReader(path).next();
  cv::Mat expected;
  cv::resize(whole, expected, {160, 100}, 0, 0, cv::INTER_AREA);
  VideoReader reader(path, {160, 100, 1});
  EXPECT_EQ(reader.info().width, 640);
  const cv::Mat small = *reader.next();
  ASSERT_EQ(small.size(), expected.size());
  EXPECT_LT(difference(small, expected), 4);
  EXPECT_THROW(VideoReader(path, {160, 0, 1}), Error);
}

TEST_F(OddVideos, InterlacingIsFlagged) {
  const fs::path path =
      make("i.mkv",
           "-f lavfi -i testsrc2=r=50:s=128x80:d=1 -vf tinterlace=interleave_top,setfield=tff "
           "-c:v libx264 -flags +ildct+ilme -x264-params tff=1");
  VideoReader reader(path);
  EXPECT_TRUE(reader.info().interlaced);
  ASSERT_TRUE(reader.advance());
  EXPECT_TRUE(reader.interlaced());
  const fs::path plain = make("p.mkv", "-f lavfi -i testsrc2=r=25:s=128x80:d=1 -c:v libx264");
  VideoReader progressive(plain);
  EXPECT_FALSE(progressive.info().interlaced);
  ASSERT_TRUE(progressive.advance());
  EXPECT_FALSE(progressive.interlaced());
}

TEST_F(OddVideos, DamageIsCountedAndSkipped) {
  const fs::path path = make(
      "a.ts", "-f lavfi -i testsrc2=r=25:s=320x200:d=4 -c:v libx264 -g 10 -x264-params scenecut=0 -f mpegts");
  EXPECT_EQ(times_of(path).size(), 100U);
  VideoReader whole(path);
  while (whole.advance()) {
  }
  EXPECT_EQ(whole.damaged(), 0);
  std::string bytes = read_file(path);
  std::fill_n(bytes.begin() + static_cast<int64_t>(bytes.size() / 2), bytes.size() / 10, '\x55');
  write_file_atomic(path, bytes);
  VideoReader reader(path);
  int frames = 0;
  double last = 0;
  while (reader.advance()) {
    ++frames;
    last = reader.seconds();
  }
  EXPECT_GT(reader.damaged(), 0);
  EXPECT_GT(frames, 60);
  EXPECT_NEAR(last, 3.96, 0.05);  // what follows the damage is read
}

// A grey of 203 cd/m2 (PQ code 0.5807) is diffuse white; 1,000 cd/m2 (0.7518) is as white as it gets.
TEST(ToneMap, KnownLevelsOfLight) {
  const auto mapped = [](double code, HdrTransfer transfer) {
    const cv::Mat picture(2, 2, CV_16UC3, cv::Scalar::all(std::round(code * 65535)));
    const cv::Vec3b out = tone_map(picture, transfer).at<cv::Vec3b>(0, 0);
    EXPECT_NEAR(out[0], out[1], 1);  // grey stays grey
    EXPECT_NEAR(out[0], out[2], 1);
    return static_cast<double>(out[1]);
  };
  EXPECT_EQ(mapped(0, HdrTransfer::kPq), 0);
  EXPECT_NEAR(mapped(0.5807, HdrTransfer::kPq), 255 * std::pow(0.81, 1 / 2.4), 2);
  // 50 cd/m2 (0.4400) lies below the knee: a quarter of diffuse white, unchanged.
  EXPECT_NEAR(mapped(0.4400, HdrTransfer::kPq), 255 * std::pow(50.0 / 203, 1 / 2.4), 2);
  EXPECT_GE(mapped(0.7518, HdrTransfer::kPq), 254);
  EXPECT_EQ(mapped(1, HdrTransfer::kPq), 255);
  // HLG's 75 % is diffuse white on a screen of 1,000 cd/m2.
  EXPECT_NEAR(mapped(0.75, HdrTransfer::kHlg), 255 * std::pow(0.81, 1 / 2.4), 2);
  double last = -1;
  for (int i = 0; i <= 40; ++i) {
    const double value = mapped(i / 40.0, HdrTransfer::kHlg);
    EXPECT_GE(value, last);
    last = value;
  }
}

TEST_F(OddVideos, HighDynamicRangeIsToneMapped) {
  // Limited range, ten bits: luma 509 of 64..940 is a code of 0.508, 100 cd/m2.
  const fs::path path =
      make("hdr.mkv",
           "-f lavfi -i color=c=black:r=5:s=128x80:d=1 -vf "
           "\"format=yuv420p10le,geq=lum=509:cb=512:cr=512\" -c:v libx264 -crf 1 -color_primaries bt2020 "
           "-color_trc smpte2084 -colorspace bt2020nc -color_range tv");
  VideoReader reader(path);
  EXPECT_EQ(reader.info().hdr, "pq");
  const cv::Scalar mean = cv::mean(*reader.next());
  for (int c = 0; c < 3; ++c) {
    EXPECT_NEAR(mean[c], 255 * std::pow(100.0 / 203, 1 / 2.4), 4) << c;
  }
}

}  // namespace
}  // namespace moga
