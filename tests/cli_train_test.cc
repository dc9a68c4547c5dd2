// moga train as a user runs it: killed at random, stopped, given bad configs.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <thread>

#include "base/atomic_file.h"

namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;
using moga::read_file;
using moga::write_file_atomic;

// Small enough that a run of forty steps takes a few seconds.
constexpr const char* kTinySizes = R"({"name": "tiny", "width": 64, "height": 48, "fps": 8,
 "dit": {"dim": 48, "ffn_dim": 64, "heads": 2, "layers": 2, "freq_dim": 16, "text_dim": 32, "text_len": 64,
         "attention": {"groups": 3, "windows": {"temporal_group": 3}}},
 "vae": {"dim": 4}, "text": {"vocab_size": 512, "dim": 32, "dim_attn": 32, "dim_ffn": 48, "heads": 2, "layers": 1},
 "sampling": {"steps": 2}})";

constexpr const char* kFilms =
    "data: {films: 4, toy: {min_frames: 17, max_frames: 17, min_shots: 2, max_shots: 2, min_shot_frames: "
    "4}}\n";

class CliTrain : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "moga_cli_train_XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    path_ = name;
    write_file_atomic(path_ / "moga.json", kTinySizes);
  }
  void TearDown() override { fs::remove_all(path_); }

  std::string config(const std::string& name, const std::string& text) const {
    const fs::path file = path_ / (name + ".yaml");
    write_file_atomic(file, text + "base: " + (path_ / "moga.json").string() + "\n");
    return file.string();
  }
  std::string dit_config(const std::string& name, int steps) const {
    return config(name, "kind: dit\ntrain_text: true\ncheckpoint_every: 3\nlog_every: 1\nmodel: " +
                            (path_ / "model").string() + "\nwork: " + (path_ / name).string() +
                            "\ncache: " + (path_ / "cache").string() + "\n" + kFilms + "stages: [{steps: " +
                            std::to_string(steps) + ", batch: 2, latent_frames: 3, warmup: 5}]\n");
  }
  // Tokenizer and VAE, which the transformer needs.
  void make_model() const {
    const std::string model = "model: " + (path_ / "model").string() + "\n";
    ASSERT_EQ(run({"train", config("tokenizer", "kind: tokenizer\ncorpus: 500\n" + model)}), 0) << errors();
    ASSERT_EQ(run({"train",
                   config("vae", "kind: vae\ncrop: 32\n" + model + "work: " + (path_ / "vae").string() +
                                     "\n" + kFilms + "stages: [{steps: 2, batch: 1, latent_frames: 2}]\n")}),
              0)
        << errors();
  }

  // Starts the program on one thread, so that many fit on one machine; its messages go to a file.
  pid_t start(std::vector<std::string> arguments) const {
    const pid_t child = ::fork();
    if (child == 0) {
      const int log = ::open((path_ / "stderr.txt").c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0644);
      const int out = ::open((path_ / "stdout.txt").c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0644);
      ::dup2(log, STDERR_FILENO);
      ::dup2(out, STDOUT_FILENO);
      ::setenv("OMP_NUM_THREADS", "1", 1);
      arguments.insert(arguments.begin(), MOGA_BINARY_DIR "/bin/moga");
      std::vector<char*> argv;
      for (std::string& argument : arguments) {
        argv.push_back(argument.data());
      }
      argv.push_back(nullptr);
      ::execv(argv[0], argv.data());
      ::_exit(127);
    }
    return child;
  }
  // The exit code, or minus the signal.
  static int wait(pid_t child) {
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  int run(std::vector<std::string> arguments) const { return wait(start(std::move(arguments))); }
  std::string errors() const { return read_file(path_ / "stderr.txt"); }
  std::string output() const { return read_file(path_ / "stdout.txt"); }

  // Runs a config again and again until it is done; returns how often it was killed. A kill comes at a random
  // time after the run's first sign of progress beyond the last kill's, so that runs get on however slow the
  // machine is.
  int run_with_kills(const std::string& file, const fs::path& work) const {
    std::mt19937 random(12345);
    const auto progress = [&] {
      std::error_code ignored;
      size_t newest = 0;
      for (const auto& entry : fs::directory_iterator(work, ignored)) {
        const std::string name = entry.path().filename().string();
        if (name.starts_with("checkpoint-") && name.size() == 19) {
          newest = std::max(newest, static_cast<size_t>(std::stoul(name.substr(11))));
        }
      }
      return newest;
    };
    size_t seen = 0;
    for (int kills = 0; kills < 100; ++kills) {
      const pid_t child = start({"train", file});
      int status = 0;
      bool ended = false;
      while (progress() <= seen && !ended) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        ended = ::waitpid(child, &status, WNOHANG) == child;
      }
      if (!ended) {
        seen = progress();
        std::this_thread::sleep_for(std::chrono::microseconds(random() % 60000));
        ::kill(child, SIGKILL);
        ::waitpid(child, &status, 0);
      }
      if (WIFEXITED(status)) {
        EXPECT_EQ(WEXITSTATUS(status), 0) << errors();
        return kills;
      }
    }
    ADD_FAILURE() << "still not done after 100 kills";
    return 100;
  }

  fs::path path_;
};

// The losses told in metrics.jsonl, without what depends on the machine's speed.
std::string told_losses(const fs::path& work) {
  const std::string lines = read_file(work / "metrics.jsonl");
  std::string found;
  for (size_t at = 0; (at = lines.find("{\"step\":", at)) != std::string::npos; ++at) {
    found += lines.substr(at, lines.find("\"learning_rate\"", at) - at) + "\n";
  }
  return found;
}

// On a GPU sums of gradients come in any order, and no two runs have the same bits.
bool on_gpu() {
  const char* device = std::getenv("MOGA_DEVICE");
  return device != nullptr && std::string(device) == "cuda";
}

// The weights that come out do not depend on how often, and when, the run was killed.
TEST_F(CliTrain, KilledAtRandomManyTimesEndsWithTheSameBits) {
  if (on_gpu()) {
    GTEST_SKIP() << "bits are promised on a CPU";
  }
  make_model();
  constexpr int kSteps = 40;
  ASSERT_EQ(run({"train", dit_config("whole", kSteps)}), 0) << errors();
  const std::string weights = read_file(path_ / "model/dit.safetensors");
  const std::string text = read_file(path_ / "model/text.safetensors");
  fs::remove(path_ / "model/dit.safetensors");
  fs::remove(path_ / "model/text.safetensors");

  const int kills = run_with_kills(dit_config("killed", kSteps), path_ / "killed");
  EXPECT_GE(kills, 5);
  EXPECT_EQ(read_file(path_ / "model/dit.safetensors"), weights) << kills << " kills";
  EXPECT_EQ(read_file(path_ / "model/text.safetensors"), text);
  // Every step is told once, and its loss is the same.
  EXPECT_EQ(told_losses(path_ / "killed"), told_losses(path_ / "whole"));
}

TEST_F(CliTrain, AdaptersOfAKilledRunHaveTheSameBits) {
  if (on_gpu()) {
    GTEST_SKIP() << "bits are promised on a CPU";
  }
  make_model();
  ASSERT_EQ(run({"train", dit_config("base", 2)}), 0) << errors();
  const auto lora_config = [&](const std::string& name) {
    std::string file = dit_config(name, 16);
    std::string text = read_file(file);
    text.replace(text.find("train_text: true"), 16,
                 "start_from: " + (path_ / "model").string() +
                     "\ntrained: lora\nlora: {rank: 4, targets: [q, v, ffn.0]}");
    write_file_atomic(file, text);
    return file;
  };
  ASSERT_EQ(run({"train", lora_config("whole")}), 0) << errors();
  const int kills = run_with_kills(lora_config("killed"), path_ / "killed");
  EXPECT_GE(kills, 2);
  EXPECT_EQ(read_file(path_ / "killed/lora.safetensors"), read_file(path_ / "whole/lora.safetensors"))
      << kills << " kills";
  EXPECT_EQ(told_losses(path_ / "killed"), told_losses(path_ / "whole"));
}

TEST_F(CliTrain, SampleFilmsAndValidationComeOutOfARun) {
  make_model();
  write_file_atomic(
      path_ / "shot.yaml",
      "title: A shot\nsize: 64x48\nfps: 8\nseed: 1\nshots:\n  - prompt: A creature walks.\n    frames: 9\n");
  const std::string file = dit_config("sampled", 4);
  std::string text = read_file(file);
  text += "samples: {every: 2, scripts: [" + (path_ / "shot.yaml").string() +
          "]}\nvalidation: {every: 3, films: 1, " + "latent_frames: 3, levels: [0.5], " + kFilms;
  text.insert(text.size() - 1, "}");
  write_file_atomic(file, text);
  ASSERT_EQ(run({"train", file}), 0) << errors();
  EXPECT_TRUE(fs::exists(path_ / "sampled/samples/step-00000002/shot.mp4"));
  EXPECT_TRUE(fs::exists(path_ / "sampled/samples/step-00000004/shot.mp4"));
  EXPECT_THAT(read_file(path_ / "sampled/metrics.jsonl"), HasSubstr("\"validation\":{\"0.5\":"));
  // The folder of the weights so far, with links to the rest, is a model like any other; the links' targets
  // stay.
  EXPECT_TRUE(fs::is_symlink(path_ / "sampled/snapshot/vae.safetensors"));
  EXPECT_FALSE(fs::is_symlink(path_ / "model/vae.safetensors"));
  EXPECT_FALSE(fs::is_symlink(path_ / "sampled/snapshot/text.safetensors"));  // it is trained
}

TEST_F(CliTrain, TerminationSavesAndTheCodeSaysSo) {
  make_model();
  const std::string run_config = dit_config("stopped", 2000);
  const pid_t child = start({"train", run_config});
  while (!fs::exists(path_ / "stopped/checkpoint-00000003")) {
    ASSERT_EQ(::waitpid(child, nullptr, WNOHANG), 0) << errors();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  // A second run in the same folder is refused meanwhile.
  EXPECT_EQ(run({"train", run_config}), 2);
  EXPECT_THAT(errors(), HasSubstr("another run is training in"));
  ::kill(child, SIGTERM);
  EXPECT_EQ(wait(child), 75);
  const std::string metrics = read_file(path_ / "stopped/metrics.jsonl");
  const auto steps = std::count(metrics.begin(), metrics.end(), '\n');
  char name[32];
  std::snprintf(name, sizeof(name), "checkpoint-%08ld", static_cast<long>(steps));
  EXPECT_TRUE(fs::exists(path_ / "stopped" / name)) << name;

  // Damage to the newest: the one before is taken, and it is said. The run is then stopped at once.
  fs::resize_file(path_ / "stopped" / name / "weights.safetensors", 64);
  const pid_t again = start({"train", run_config});
  while (errors().find("continuing") == std::string::npos) {
    ASSERT_EQ(::waitpid(again, nullptr, WNOHANG), 0) << errors();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  ::kill(again, SIGTERM);
  EXPECT_EQ(wait(again), 75);
  EXPECT_THAT(errors(), HasSubstr("cannot be used"));
}

TEST_F(CliTrain, BadConfigsGetOneLine) {
  const auto error_of = [&](const std::string& text) {
    EXPECT_EQ(run({"train", config("bad", text)}), 2) << text;
    std::string all = errors();
    EXPECT_EQ(std::count(all.begin(), all.end(), '\n'), 1) << all;
    return all;
  };
  EXPECT_THAT(error_of("stages: [{lr: 3}]\n"), HasSubstr("unknown key 'lr'"));
  EXPECT_THAT(error_of("kind: dits\n"), HasSubstr("expected one of tokenizer, vae, dit, judge"));
  EXPECT_THAT(error_of("data: {kind: folder, folder: /none}\n"),
              HasSubstr("data.folder: no such folder: '/none'"));
  EXPECT_THAT(error_of("stages: [{batch: 5, accumulate: 2}]\n"), HasSubstr("a multiple of accumulate"));
  EXPECT_THAT(error_of("model: " + (path_ / "none").string() + "\n"), HasSubstr("none"));
  EXPECT_EQ(run({"train", (path_ / "missing.yaml").string()}), 2);
  EXPECT_THAT(errors(), HasSubstr("no such file"));
  EXPECT_EQ(run({"train"}), 2);
}

TEST_F(CliTrain, ExplainsChecksAndPlots) {
  EXPECT_EQ(run({"train", "--explain"}), 0);
  for (const char* key :
       {"stages[].accumulate = 1", "lora.rank = 16", "validation.levels = [0.1,0.3,0.5,0.7,0.9]",
        "spike_factor = 10.0", "stages[].buckets[].latent_frames", "stages[].data.toy.max_shots = 14",
        "validation.data.folder = "}) {
    EXPECT_THAT(output(), HasSubstr(key));
  }
  EXPECT_EQ(run({"train", "--check", config("good", kFilms)}), 0) << errors();
  EXPECT_THAT(output(), HasSubstr("1000 steps in 1 stages"));
  fs::create_directories(path_ / "run");
  write_file_atomic(path_ / "run/metrics.jsonl", "{\"step\": 0, \"loss\": 2}\n{\"step\": 1, \"loss\": 1}\n");
  EXPECT_EQ(run({"train", "--plot", (path_ / "run").string()}), 0) << errors();
  EXPECT_THAT(read_file(path_ / "run/metrics.svg"), HasSubstr("<polyline"));
  EXPECT_EQ(run({"train", "--plot", (path_ / "nothing").string()}), 2);
}

}  // namespace
