// moga shots as a user types it: table, JSON, edit list, contact sheet, errors.
#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/atomic_file.h"
#include "data/toy_world.h"
#include "media/picture.h"
#include "media/video.h"

namespace moga {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;

struct Result {
  int code = 0;
  std::string out;
  std::string err;
};

class CliShots : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("moga_cli_shots_" + std::to_string(getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  Result run(const std::string& arguments) const {
    const fs::path errors = folder_ / "stderr.txt";
    const std::string command =
        "\"" MOGA_BINARY_DIR "/bin/moga\" shots " + arguments + " 2> \"" + errors.string() + "\"";
    Result result;
    FILE* pipe = popen(command.c_str(), "r");
    std::array<char, 4096> buffer{};
    for (size_t n = 0; (n = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) {
      result.out.append(buffer.data(), n);
    }
    result.code = WEXITSTATUS(pclose(pipe));
    result.err = read_file(errors);
    return result;
  }

  // A toy film of three shots; returns the first frames of the second and third.
  std::vector<int64_t> write_film(const fs::path& path) const {
    ToyFilmSettings settings;
    settings.min_shots = settings.max_shots = 3;
    settings.min_frames = settings.max_frames = 97;
    const ToyFilm film = make_toy_film(4, settings);
    VideoSettings video;
    video.width = settings.width;
    video.height = settings.height;
    video.fps = 8;
    VideoWriter writer(path, video);
    for (int64_t i = 0; i < film.total_frames(); ++i) {
      writer.write(draw_toy_frame(film, i, settings));
    }
    writer.finish();
    return {film.shots[1].first_frame, film.shots[2].first_frame};
  }

  fs::path folder_;
};

TEST_F(CliShots, AllForms) {
  const std::vector<int64_t> cuts = write_film(folder_ / "film.mp4");
  const std::string film = "\"" + (folder_ / "film.mp4").string() + "\"";
  const Result json = run(film + " --json");
  ASSERT_EQ(json.code, 0) << json.err;
  const auto parsed = nlohmann::json::parse(json.out);
  ASSERT_EQ(parsed.size(), 1U);
  ASSERT_EQ(parsed["boundaries"].size(), 2U);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(parsed["boundaries"][i]["frame"], cuts[i]);
    EXPECT_EQ(parsed["boundaries"][i]["kind"], "cut");
    EXPECT_EQ(parsed["boundaries"][i]["overlapped"], false);
    EXPECT_EQ(parsed["boundaries"][i]["detectors"].size(), 2U);
  }

  const Result table = run(film + " --sheet \"" + (folder_ / "sheet.png").string() + "\"");
  EXPECT_EQ(table.code, 0) << table.err;
  EXPECT_THAT(table.out, HasSubstr("3 shots in 97 frames"));
  EXPECT_THAT(table.out, HasSubstr("clean"));
  const cv::Mat sheet = read_image(folder_ / "sheet.png");
  EXPECT_GT(sheet.cols, 3 * 224);
  EXPECT_GT(sheet.rows, 3 * 140);

  const Result edl = run(film + " --edl");
  EXPECT_EQ(edl.code, 0) << edl.err;
  EXPECT_THAT(edl.out, HasSubstr("TITLE: film.mp4"));
  EXPECT_THAT(edl.out, HasSubstr("003  AX       V     C        "));
}

TEST_F(CliShots, WrongInputExitsWithTwo) {
  EXPECT_EQ(run("no-such.mp4").code, 2);
  EXPECT_EQ(run("--json").code, 2);
  EXPECT_EQ(run("no-such.mp4 --json --edl").code, 2);
  write_film(folder_ / "film.mp4");
  const Result result = run("\"" + (folder_ / "film.mp4").string() + "\" --network \"" +
                            (folder_ / "film.mp4").string() + "\"");
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr("cannot read it as an ONNX network"));
}

TEST_F(CliShots, HelpTeaches) {
  const Result result = run("--help");
  EXPECT_EQ(result.code, 0);
  EXPECT_THAT(result.out, HasSubstr("first frame of the new shot"));
}

}  // namespace
}  // namespace moga
