#include "training/checkpoints.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>

#include "base/atomic_file.h"
#include "base/error.h"

namespace moga {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

class CheckpointFolders : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "moga_checkpoints_XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    work_ = name;
  }
  void TearDown() override { fs::remove_all(work_); }

  static RunCheckpoint some(int64_t step) {
    RunCheckpoint checkpoint;
    checkpoint.step = step;
    checkpoint.state = {{"optimizer_steps", step - 1}};
    checkpoint.sets["weights"]["w"] = torch::full({100}, static_cast<double>(step));
    checkpoint.sets["optimizer"]["first.w"] = torch::zeros({100});
    return checkpoint;
  }
  // One byte of a file in the middle becomes another.
  static void damage(const fs::path& file) {
    std::string content = read_file(file);
    content[content.size() / 2] = static_cast<char>(content[content.size() / 2] ^ 0x10);
    std::ofstream(file, std::ios::binary) << content;
  }
  static std::string error_of(const std::function<void()>& action) {
    try {
      action();
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }

  fs::path work_;
};

TEST_F(CheckpointFolders, NewestComesBackAndOldOnesGo) {
  Checkpoints checkpoints(work_, 2);
  EXPECT_FALSE(checkpoints.load_newest());
  for (const int64_t step : {5, 20, 100}) {
    checkpoints.save(some(step));
  }
  EXPECT_THAT(checkpoints.steps(), ElementsAre(20, 100));
  const auto newest = checkpoints.load_newest();
  ASSERT_TRUE(newest);
  EXPECT_EQ(newest->step, 100);
  EXPECT_EQ(newest->state["optimizer_steps"], 99);
  EXPECT_TRUE(newest->sets.at("weights").at("w").equal(torch::full({100}, 100.0)));
  EXPECT_EQ(newest->sets.at("optimizer").size(), 1U);
}

TEST_F(CheckpointFolders, AnyDamageFallsBackToTheOneBefore) {
  Checkpoints checkpoints(work_, 9);
  for (const int64_t step : {1, 2, 3, 4, 5}) {
    checkpoints.save(some(step));
  }
  damage(checkpoints.folder(5) / "weights.safetensors");
  EXPECT_EQ(checkpoints.load_newest()->step, 4);
  damage(checkpoints.folder(4) / "state.json");
  EXPECT_EQ(checkpoints.load_newest()->step, 3);
  fs::remove(checkpoints.folder(3) / "optimizer.safetensors");
  EXPECT_EQ(checkpoints.load_newest()->step, 2);
  fs::resize_file(checkpoints.folder(2) / "weights.safetensors", 100);
  EXPECT_EQ(checkpoints.load_newest()->step, 1);
  fs::remove(checkpoints.folder(1) / "state.json");
  EXPECT_THAT(error_of([&] { checkpoints.load_newest(); }), HasSubstr("none of the 5 checkpoints"));
}

TEST_F(CheckpointFolders, WhatKilledRunsLeftIsRemovedAndForeignFilesStay) {
  fs::create_directories(work_ / ".checkpoint-00000007.123.0.tmp");
  fs::create_directories(work_ / "checkpoint-00000007.old");
  fs::create_directories(work_ / "checkpoint-mine");
  const Checkpoints checkpoints(work_, 1);
  EXPECT_FALSE(fs::exists(work_ / ".checkpoint-00000007.123.0.tmp"));
  EXPECT_FALSE(fs::exists(work_ / "checkpoint-00000007.old"));
  EXPECT_TRUE(fs::exists(work_ / "checkpoint-mine"));
  EXPECT_TRUE(checkpoints.steps().empty());
}

TEST_F(CheckpointFolders, OneRunAFolder) {
  {
    const Checkpoints first(work_, 1);
    EXPECT_THAT(error_of([&] { const Checkpoints second(work_, 1); }),
                HasSubstr("another run is training in"));
  }
  const Checkpoints later(work_, 1);
}

// A disk that is full in the middle of a checkpoint, as a limit on the size of files.
TEST_F(CheckpointFolders, AFullDiskLeavesTheOneBefore) {
  {
    Checkpoints checkpoints(work_, 1);
    checkpoints.save(some(1));
  }
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {300, 300};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    Checkpoints checkpoints(work_, 1);
    const std::string error = error_of([&] { checkpoints.save(some(2)); });
    ::_exit(error.find("cannot write") != std::string::npos ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  const Checkpoints checkpoints(work_, 1);
  EXPECT_THAT(checkpoints.steps(), ElementsAre(1));
  EXPECT_EQ(checkpoints.load_newest()->step, 1);
  for (const auto& entry : fs::directory_iterator(work_)) {
    EXPECT_FALSE(entry.path().filename().string().ends_with(".tmp")) << entry.path();
  }
}

}  // namespace
}  // namespace moga
