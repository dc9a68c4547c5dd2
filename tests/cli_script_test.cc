// moga lint and moga plan as a user types them: output, exit codes, one line of error.
#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/atomic_file.h"

namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

struct Result {
  int code = 0;
  std::string out;
  std::string err;
};

// Its own folder, so that test programs of several build folders can run at once.
fs::path scratch() {
  return fs::path(::testing::TempDir()) / ("moga_cli_script_" + std::to_string(::getpid()));
}

Result run(const std::string& arguments) {
  fs::create_directories(scratch());
  const fs::path errors = scratch() / "stderr.txt";
  const std::string command =
      "\"" MOGA_BINARY_DIR "/bin/moga\" " + arguments + " 2> \"" + errors.string() + "\"";
  Result result;
  FILE* pipe = ::popen(command.c_str(), "r");
  std::array<char, 4096> buffer{};
  for (size_t n = 0; (n = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) {
    result.out.append(buffer.data(), n);
  }
  result.code = WEXITSTATUS(::pclose(pipe));
  result.err = moga::read_file(errors);
  return result;
}

class CliScript : public ::testing::Test {
 protected:
  void TearDown() override { fs::remove_all(scratch()); }
  static std::string script(const std::string& text) {
    moga::write_file_atomic(scratch() / "film.yaml", text);
    return "\"" + (scratch() / "film.yaml").string() + "\"";
  }
};

TEST_F(CliScript, LintShowsShotsAndPasses) {
  const Result result = run("lint \"" MOGA_SOURCE_DIR "/examples/minute.yaml\"");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("0 errors, 0 warnings"));
  EXPECT_THAT(result.out, HasSubstr("12 shots, 481 frames, 121 latent frames"));
}

TEST_F(CliScript, LintReportsAllErrorsAndExitsWithTwo) {
  const Result result = run("lint " + script("titl: x\nsize: 100x80\nshots: [{prompt: a}]\n"));
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.out, HasSubstr("film.yaml:1:1: error: unknown key 'titl'"));
  EXPECT_THAT(result.out, HasSubstr("film.yaml:2:7: error: size: 100x80"));
  EXPECT_THAT(result.out, HasSubstr("film.yaml:3:9: error: shot 1: expected one of"));
  EXPECT_THAT(result.err, HasSubstr("error: 3 errors in the film scripts"));
}

TEST_F(CliScript, LintWarningsPass) {
  const Result result = run("lint --json " + script("shots: [{prompt: a, frames: 9}]\n"));
  EXPECT_EQ(result.code, 0) << result.err;
  const auto json = nlohmann::json::parse(result.out);
  EXPECT_EQ(json[0]["ok"], true);
  EXPECT_EQ(json[0]["findings"][0]["severity"], "warning");
  EXPECT_EQ(json[0]["frames"], 9);
}

TEST_F(CliScript, LintOfAMissingFileStillChecksTheOthers) {
  const Result result = run("lint no-such.yaml \"" MOGA_SOURCE_DIR "/examples/demo.yaml\"");
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.out, HasSubstr("no-such.yaml"));
  EXPECT_THAT(result.out, HasSubstr("demo.yaml: 0 errors"));
}

TEST_F(CliScript, PlanPrintsThePapersFigures) {
  const Result result = run(
      "plan --model wan-1.3b --frames 157 --size 832x480 --groups 5 --windows 2x2 --temporal-group 10 --json "
      "--no-measure");
  ASSERT_EQ(result.code, 0) << result.err;
  const auto json = nlohmann::json::parse(result.out);
  EXPECT_EQ(json["latent_frames"], 40);
  EXPECT_EQ(json["tokens"], 62400);
  EXPECT_NEAR(json["sparsity"].get<double>(), 0.7125, 1e-12);
  EXPECT_NEAR(json["flops_full"].get<double>(), 0.88e15, 0.0088e15);
  EXPECT_LT(json["flops_moga"], json["flops_full"]);
  EXPECT_TRUE(json["time"].is_null());
}

TEST_F(CliScript, PlanMeasuresTheMachine) {
  const Result result = run("plan --model toy --frames 81 --json");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_GT(nlohmann::json::parse(result.out)["time"]["generate_seconds"].get<double>(), 0);
}

TEST_F(CliScript, PlanTakesAScript) {
  const Result result =
      run("plan --no-measure --json --model toy --script \"" MOGA_SOURCE_DIR "/examples/minute.yaml\"");
  ASSERT_EQ(result.code, 0) << result.err;
  const auto json = nlohmann::json::parse(result.out);
  EXPECT_EQ(json["tokens"], 4840);
  EXPECT_EQ(json["shots"], 12);
  EXPECT_EQ(json["shot_starts"][1], 11);
}

TEST_F(CliScript, PlanSaysThatItSnapped) {
  const Result result = run("plan --no-measure --frames 158");
  EXPECT_EQ(result.code, 0);
  EXPECT_THAT(result.err, HasSubstr("planned 157 frames"));
}

TEST_F(CliScript, BadPlansExitWithTwoAndOneLine) {
  for (const char* arguments :
       {"plan", "plan --frames 0", "plan --seconds -1", "plan --seconds nan", "plan --seconds 1 --frames 5",
        "plan --frames 5 --size 830x480", "plan --frames 5 --size 832", "plan --frames 5 --windows 0x2",
        "plan --frames 5 --windows 99x2", "plan --frames 5 --groups 0", "plan --frames 5 --temporal-group 0",
        "plan --frames 5 --shots 3", "plan --frames 5 --shot-starts 1", "plan --frames 5 --model no-such",
        "plan --frames 5 --attention some", "plan --script no-such.yaml"}) {
    const Result result = run(arguments);
    EXPECT_EQ(result.code, 2) << arguments << "\n" << result.err;
    EXPECT_EQ(result.out, "") << arguments;
    EXPECT_NE(result.err, "") << arguments;
  }
}

}  // namespace
