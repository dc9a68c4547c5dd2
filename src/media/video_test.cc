#include "media/video.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstdlib>
#include <opencv2/imgproc.hpp>

#include "base/atomic_file.h"
#include "base/error.h"

namespace moga {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

// A soft gradient that drifts, with a disc that moves: chroma subsampling costs little in it.
cv::Mat synthetic(int width, int height, int index) {
  cv::Mat rgb(height, width, CV_8UC3);
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      rgb.at<cv::Vec3b>(y, x) = {static_cast<uint8_t>(40 + 150 * x / width),
                                 static_cast<uint8_t>(200 - 150 * y / height),
                                 static_cast<uint8_t>(60 + 3 * (index % 32))};
    }
  }
  cv::circle(rgb, {(10 + 3 * index) % width, height / 2}, height / 5, {220, 60, 40}, cv::FILLED, cv::LINE_AA);
  return rgb;
}

double psnr(const cv::Mat& a, const cv::Mat& b) {
  cv::Mat difference;
  cv::absdiff(a, b, difference);
  difference.convertTo(difference, CV_64F);
  const double squares = difference.dot(difference) / static_cast<double>(a.total() * 3);
  return squares == 0 ? 99 : 10 * std::log10(255.0 * 255.0 / squares);
}

class Video : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / fmt::format("moga_media_{}", getpid());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path file(const std::string& name) const { return folder_ / name; }

  fs::path make(const std::string& name, VideoSettings settings, int frames) const {
    VideoWriter writer(file(name), settings);
    for (int i = 0; i < frames; ++i) {
      writer.write(synthetic(static_cast<int>(settings.width), static_cast<int>(settings.height), i));
    }
    writer.finish();
    return file(name);
  }

  int64_t files_here() const {
    return std::distance(fs::directory_iterator(folder_), fs::directory_iterator());
  }

  fs::path folder_;
};

VideoSettings settings(int64_t width, int64_t height, double fps) {
  VideoSettings result;
  result.width = width;
  result.height = height;
  result.fps = fps;
  return result;
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

int count_frames(const fs::path& path) {
  VideoReader reader(path);
  int frames = 0;
  while (reader.next()) {
    ++frames;
  }
  return frames;
}

TEST_F(Video, RoundTripKeepsPicturesCountsAndRates) {
  struct Case {
    int width, height, frames;
    double fps;
  };
  for (const Case& c :
       {Case{128, 80, 41, 8}, Case{130, 66, 7, 23.976}, Case{16, 16, 1, 24}, Case{320, 182, 25, 16},
        Case{64, 64, 9, 29.97}, Case{64, 64, 5, 12.5}, Case{2, 2, 3, 1}}) {
    const fs::path path = make("a.mp4", settings(c.width, c.height, c.fps), c.frames);
    VideoReader reader(path);
    const VideoInfo info = reader.info();
    EXPECT_EQ(info.width, c.width);
    EXPECT_EQ(info.height, c.height);
    EXPECT_EQ(info.frames, c.frames);
    EXPECT_NEAR(info.fps, c.fps, 1e-3);
    EXPECT_NEAR(info.seconds, c.frames / info.fps, 2e-3);
    EXPECT_EQ(info.codec, "h264");
    EXPECT_EQ(info.pixel_format, "yuv420p");
    int frames = 0;
    for (; auto picture = reader.next(); ++frames) {
      ASSERT_EQ(picture->cols, c.width);
      ASSERT_EQ(picture->rows, c.height);
      if (c.width >= 64) {
        EXPECT_GT(psnr(*picture, synthetic(c.width, c.height, frames)), 33) << c.width << " frame " << frames;
      }
    }
    EXPECT_EQ(frames, c.frames);
    EXPECT_FALSE(reader.next());
  }
}

// A wrong matrix or range in either direction shifts flat colours by far more than this.
TEST_F(Video, FlatColoursSurvive) {
  for (const cv::Scalar& colour :
       {cv::Scalar(200, 30, 30), cv::Scalar(20, 180, 40), cv::Scalar(30, 50, 210), cv::Scalar(255, 255, 255),
        cv::Scalar(0, 0, 0), cv::Scalar(128, 128, 128)}) {
    VideoWriter writer(file("a.mp4"), settings(64, 48, 8));
    const cv::Mat flat(48, 64, CV_8UC3, colour);
    writer.write(flat);
    writer.finish();
    const auto picture = VideoReader(file("a.mp4")).next();
    ASSERT_TRUE(picture);
    const cv::Scalar mean = cv::mean(*picture);
    for (int i = 0; i < 3; ++i) {
      EXPECT_NEAR(mean[i], colour[i], 3) << i;
    }
  }
}

TEST_F(Video, StridedAndNonContiguousFramesAreAccepted) {
  VideoWriter writer(file("a.mp4"), settings(62, 46, 8));
  const cv::Mat large = synthetic(101, 77, 0);
  const cv::Mat part = large(cv::Rect(3, 5, 62, 46));
  ASSERT_FALSE(part.isContinuous());
  writer.write(part);
  writer.finish();
  EXPECT_GT(psnr(*VideoReader(file("a.mp4")).next(), part), 33);
}

TEST_F(Video, LongMetadataRoundTrips) {
  auto with_text = settings(64, 48, 8);
  with_text.title = "The l\xc3\xa4mp \xe2\x80\x94 a film; with = signs\\";
  with_text.comment = "{\n  \"script\": \"";
  while (with_text.comment.size() < 100'000) {
    with_text.comment += "shots:\\n  - prompt: \xe4\xb8\xad\xe6\x96\x87 a robot #; = \\\\ \"\n\t";
  }
  with_text.comment += "end";
  const fs::path path = make("a.mp4", with_text, 3);
  const VideoInfo info = probe_video(path);
  EXPECT_EQ(info.title, with_text.title);
  EXPECT_EQ(info.comment.size(), with_text.comment.size());
  EXPECT_TRUE(info.comment == with_text.comment);
}

// Leaves memory that was used before, as a program that has run for a while does: what reads beyond its rows
// then reads something else each time.
void soil_memory(uint64_t seed) {
  cv::RNG random(seed);
  std::vector<std::vector<uint8_t>> blocks;
  for (int i = 0; i < 200; ++i) {
    blocks.emplace_back(static_cast<size_t>(random.uniform(100, 40000)),
                        static_cast<uint8_t>(random.uniform(0, 256)));
  }
}

TEST_F(Video, EqualFramesGiveEqualFiles) {
  for (const cv::Size size : {cv::Size(128, 80), cv::Size(64, 48), cv::Size(208, 80), cv::Size(480, 96)}) {
    auto same = settings(size.width, size.height, 8);
    same.comment = "seed 1";
    const std::string first = read_file(make("a.mp4", same, 60));
    for (uint64_t again = 0; again < 6; ++again) {
      soil_memory(again + 1);
      EXPECT_TRUE(read_file(make("b.mp4", same, 60)) == first) << size.width << " x " << size.height;
    }
  }
}

TEST_F(Video, TheIndexComesFirst) {
  const std::string bytes = read_file(make("a.mp4", settings(64, 48, 8), 9));
  EXPECT_LT(bytes.find("moov"), bytes.find("mdat"));
}

TEST_F(Video, BadSettingsAreRefused) {
  const auto message = [&](const VideoSettings& bad, const std::string& name = "a.mp4") {
    return error_of([&] { VideoWriter(file(name), bad); });
  };
  EXPECT_THAT(message(settings(65, 48, 8)), HasSubstr("even width and height, found 65x48"));
  EXPECT_THAT(message(settings(64, 49, 8)), HasSubstr("found 64x49"));
  EXPECT_THAT(message(settings(0, 48, 8)), HasSubstr("frame size"));
  EXPECT_THAT(message(settings(64, 48, 0)), HasSubstr("frames a second"));
  EXPECT_THAT(message(settings(64, 48, NAN)), HasSubstr("frames a second"));
  EXPECT_THAT(message(settings(64, 48, 8), "a.avi"), HasSubstr(".mp4"));
  auto bytes = settings(64, 48, 8);
  bytes.comment = "\xff";
  EXPECT_THAT(message(bytes), HasSubstr("UTF-8"));
  EXPECT_EQ(files_here(), 0);
}

TEST_F(Video, WrongFramesAreRefused) {
  VideoWriter writer(file("a.mp4"), settings(64, 48, 8));
  EXPECT_THAT(error_of([&] { writer.finish(); }), HasSubstr("no frame"));
  EXPECT_THAT(error_of([&] { writer.write(synthetic(48, 64, 0)); }), HasSubstr("64x48, found 48x64"));
  EXPECT_THAT(error_of([&] { writer.write(cv::Mat(48, 64, CV_8UC1)); }), HasSubstr("1 channels"));
  writer.write(synthetic(64, 48, 0));  // the writer is still good
  writer.finish();
  EXPECT_THAT(error_of([&] { writer.write(synthetic(64, 48, 0)); }), HasSubstr("finished"));
  EXPECT_THAT(error_of([&] { writer.finish(); }), HasSubstr("finished"));
  EXPECT_EQ(count_frames(file("a.mp4")), 1);
}

TEST_F(Video, UnfinishedFilmsLeaveNothingAndKeepTheOldOne) {
  make("a.mp4", settings(64, 48, 8), 3);
  {
    VideoWriter writer(file("a.mp4"), settings(64, 48, 8));
    writer.write(synthetic(64, 48, 0));
    EXPECT_EQ(files_here(), 2);
  }
  EXPECT_EQ(files_here(), 1);
  EXPECT_EQ(count_frames(file("a.mp4")), 3);
}

TEST_F(Video, UnwritablePlacesAreKnownAtOnce) {
  make("a.mp4", settings(64, 48, 8), 1);
  EXPECT_THROW(VideoWriter(file("a.mp4") / "b.mp4", settings(64, 48, 8)), Error);
  EXPECT_THROW(VideoWriter("/proc/nowhere/b.mp4", settings(64, 48, 8)), Error);
}

TEST_F(Video, AFullDiskIsAnErrorAndLeavesNothing) {
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  for (const rlim_t limit : {rlim_t{1000}, rlim_t{20'000}, rlim_t{60'000}}) {
    const rlimit small{limit, old.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
    bool told_late = false;
    const std::string message = error_of([&] {
      VideoWriter writer(file("a.mp4"), settings(128, 128, 8));
      cv::Mat noise(128, 128, CV_8UC3);
      cv::RNG random(1);
      for (int i = 0; i < 100; ++i) {
        random.fill(noise, cv::RNG::UNIFORM, 0, 256);
        writer.write(noise);
      }
      told_late = true;
      writer.finish();
    });
    setrlimit(RLIMIT_FSIZE, &old);
    EXPECT_THAT(message, HasSubstr("a.mp4: disk: File too large")) << limit;
    EXPECT_FALSE(told_late) << limit;  // an hour-long film must not be finished first
    EXPECT_EQ(files_here(), 0) << limit;
  }
  // The last write of all: room for the film itself, not for moving the index to the front.
  const auto whole = static_cast<rlim_t>(fs::file_size(make("b.mp4", settings(64, 48, 8), 9)));
  fs::remove(file("b.mp4"));
  const rlimit small{whole - 100, old.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  EXPECT_NE(error_of([&] { make("b.mp4", settings(64, 48, 8), 9); }), "no error");
  setrlimit(RLIMIT_FSIZE, &old);
  EXPECT_EQ(files_here(), 0);
  std::signal(SIGXFSZ, old_handler);
}

TEST_F(Video, WhatIsNoVideoIsRefused) {
  EXPECT_THAT(error_of([&] { probe_video(file("none.mp4")); }), HasSubstr("no such file"));
  EXPECT_THAT(error_of([&] { probe_video(folder_); }), HasSubstr("found a folder"));
  for (const char* name : {"a.mp4", "a.txt", "a.yaml"}) {
    for (const std::string& content : {std::string(), std::string("title: a film\nshots: []\n"),
                                       std::string(5000, 'x'), std::string(5000, '\0')}) {
      write_file_atomic(file(name), content);
      EXPECT_NE(error_of([&] { VideoReader(file(name)).next(); }), "no error")
          << name << " " << content.size();
    }
  }
}

TEST_F(Video, TruncatedFilmsEndEarlyOrAreRefused) {
  const fs::path path = make("a.mp4", settings(128, 80, 8), 41);
  const std::string whole = read_file(path);
  int opened = 0;
  for (int part = 0; part < 20; ++part) {
    write_file_atomic(file("b.mp4"), whole.substr(0, whole.size() * static_cast<size_t>(part) / 20));
    const std::string message = error_of([&] {
      EXPECT_LT(count_frames(file("b.mp4")), 41);
      ++opened;
    });
    if (message != "no error") {
      EXPECT_THAT(message, HasSubstr("b.mp4"));
    }
  }
  EXPECT_GT(opened, 5);  // the index is in front, so later cuts leave readable films
}

TEST_F(Video, DamagedFilmsNeverCrash) {
  const fs::path path = make("a.mp4", settings(128, 80, 8), 25);
  const std::string whole = read_file(path);
  cv::RNG random(7);
  for (int round = 0; round < 30; ++round) {
    std::string bytes = whole;
    for (int i = 0; i < 20; ++i) {
      bytes[static_cast<size_t>(random.uniform(0, static_cast<int>(bytes.size())))] =
          static_cast<char>(random.uniform(0, 256));
    }
    write_file_atomic(file("b.mp4"), bytes);
    error_of([&] { count_frames(file("b.mp4")); });  // frames or a moga::Error, nothing else
  }
  // Damage in one packet in the middle costs at most a few frames, not the rest of the film.
  std::string bytes = whole;
  const size_t data = whole.find("mdat") + 4;
  std::fill_n(bytes.begin() + static_cast<int64_t>(data + (whole.size() - data) / 2), 64, '\xff');
  write_file_atomic(file("b.mp4"), bytes);
  EXPECT_GE(count_frames(file("b.mp4")), 15);
}

// The display matrix is the only 36 bytes 0x10000 0 0 0 0x10000 0 0 0 0x40000000 of a tkhd box.
TEST_F(Video, RotationIsApplied) {
  const fs::path path = make("a.mp4", settings(128, 80, 8), 2);
  const cv::Mat stored = *VideoReader(path).next();
  const std::string whole = read_file(path);
  const auto word = [](uint32_t value) {
    return std::string{static_cast<char>(value >> 24U), static_cast<char>(value >> 16U),
                       static_cast<char>(value >> 8U), static_cast<char>(value)};
  };
  const auto matrix = [&](int a, int b, int c, int d) {
    const auto fixed = [&](int value) { return word(static_cast<uint32_t>(value) << 16U); };
    return fixed(a) + fixed(b) + word(0) + fixed(c) + fixed(d) + word(0) + word(0) + word(0) +
           word(0x40000000);
  };
  const size_t place = whole.find(matrix(1, 0, 0, 1), whole.find("tkhd"));
  ASSERT_NE(place, std::string::npos);
  struct Case {
    int a, b, c, d, rotate;
  };
  for (const Case& c : {Case{0, 1, -1, 0, cv::ROTATE_90_CLOCKWISE}, Case{-1, 0, 0, -1, cv::ROTATE_180},
                        Case{0, -1, 1, 0, cv::ROTATE_90_COUNTERCLOCKWISE}}) {
    std::string bytes = whole;
    bytes.replace(place, 36, matrix(c.a, c.b, c.c, c.d));
    write_file_atomic(file("b.mp4"), bytes);
    cv::Mat expected;
    cv::rotate(stored, expected, c.rotate);
    VideoReader reader(file("b.mp4"));
    EXPECT_EQ(reader.info().width, expected.cols);
    EXPECT_EQ(reader.info().height, expected.rows);
    const auto picture = reader.next();
    ASSERT_TRUE(picture);
    ASSERT_EQ(picture->size(), expected.size());
    EXPECT_EQ(cv::norm(*picture, expected, cv::NORM_INF), 0) << c.rotate;
  }
}

TEST_F(Video, RealClips) {
  const char* given = std::getenv("MOGA_CLIPS");
  const fs::path folder = given != nullptr ? fs::path(given) : fs::path(MOGA_SOURCE_DIR "/../shared/clips");
  if (!fs::exists(folder / "clip_a.mp4")) {
    GTEST_SKIP() << "no real clips at " << folder;
  }
  for (const char* name : {"clip_a.mp4", "clip_b.mp4", "clip_c.mp4"}) {
    const VideoInfo info = probe_video(folder / name);
    EXPECT_EQ(info.width, 832);
    EXPECT_EQ(info.height, 480);
    EXPECT_EQ(info.frames, 157);
    EXPECT_NEAR(info.fps, 16, 1e-6);
  }
  VideoReader reader(folder / "clip_a.mp4");
  int frames = 0;
  double cut = 0;
  double still = 0;
  cv::Mat last;
  for (; auto picture = reader.next(); ++frames) {
    if (frames > 0) {
      const double change = cv::norm(*picture, last, cv::NORM_L1) / static_cast<double>(picture->total() * 3);
      (frames == 53 || frames == 105 ? cut : still) =
          frames == 53 || frames == 105 ? change : std::max(still, change);
    }
    last = *picture;
  }
  EXPECT_EQ(frames, 157);
  EXPECT_GT(cut, still);  // frames come in order, so the greatest change is the cut
}

}  // namespace
}  // namespace moga
