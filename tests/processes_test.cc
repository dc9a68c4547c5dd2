// Films and training as several processes, started as a user starts them, against one process.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <set>
#include <thread>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/text_util.h"
#include "distributed/device_test_util.h"
#include "io/safetensors.h"
#include "pipeline/film_latents.h"
#include "training/metrics.h"
#include "training/tiny_model.h"

namespace moga {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr const char* kScript = R"(title: Two places
size: 64x48
fps: 8
seed: 3
shots:
  - {prompt: Mia stands in the meadow., frames: 9}
  - {prompt: Mia jumps in the snow., frames: 8}
)";

class Processes : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    std::string name = (fs::temp_directory_path() / "moga_processes_XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    path_ = name;
    make_tiny_model(path_ / "model");
    write_file_atomic(path_ / "film.yaml", kScript);
    ASSERT_EQ(setenv("XDG_CACHE_HOME", (path_ / "cache").c_str(), 1), 0);
    ASSERT_EQ(setenv("MOGA_THREADS", "1", 1), 0);  // the same with any number of processes
  }
  static void TearDownTestSuite() { fs::remove_all(path_); }
  void SetUp() override {
    if (most() < 2) {
      GTEST_SKIP() << "a process needs a GPU of its own: two at least for these tests";
    }
  }

  // So many processes can run: each needs a GPU of its own where GPUs are tested.
  static int64_t most() {
    return test_device().is_cuda() ? std::min<int64_t>(4, torch::cuda::device_count()) : 8;
  }

  // Starts the program; its messages go to err.txt.
  static pid_t start(const std::vector<std::string>& arguments,
                     const std::map<std::string, std::string>& variables = {}) {
    std::vector<std::string> command = {MOGA_BINARY_DIR "/bin/moga"};
    command.insert(command.end(), arguments.begin(), arguments.end());
    std::vector<char*> pointers;
    for (std::string& argument : command) {
      pointers.push_back(argument.data());
    }
    pointers.push_back(nullptr);
    const std::string messages =
        (path_ / (variables.contains("RANK") ? "err" + variables.at("RANK") + ".txt" : "err.txt")).string();
    fs::remove(messages);  // of the run before
    const pid_t pid = fork();
    if (pid == 0) {
      dup2(open(messages.c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0600), STDERR_FILENO);
      dup2(open("/dev/null", O_WRONLY), STDOUT_FILENO);
      for (const auto& [name, value] : variables) {
        setenv(name.c_str(), value.c_str(), 1);
      }
      execv(pointers[0], pointers.data());
      _exit(127);
    }
    return pid;
  }
  static int finish(pid_t pid) {
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  static int moga(const std::vector<std::string>& arguments) { return finish(start(arguments)); }
  // In the order in which they were started: that of their ranks.
  static std::vector<std::string> children_of(pid_t pid) {
    return split(read_file(fmt::format("/proc/{0}/task/{0}/children", pid)), ' ');
  }
  static std::string errors() {
    return fs::exists(path_ / "err.txt") ? read_file(path_ / "err.txt") : std::string();
  }

  static std::vector<std::string> generate(const std::string& name, int64_t processes, int64_t steps) {
    return {"generate",
            (path_ / "film.yaml").string(),
            "--model",
            (path_ / "model").string(),
            "-o",
            (path_ / (name + ".mp4")).string(),
            "--steps",
            std::to_string(steps),
            "--keep-latents",
            "--groups",
            "--processes",
            std::to_string(processes)};
  }
  static FilmLatents latents(const std::string& name) {
    return read_film_latents(path_ / (name + ".latents.safetensors"));
  }

  // A training run of a few steps in its own work folder.
  static std::vector<std::string> train(const std::string& name, int64_t processes, int64_t sequence,
                                        int64_t steps, uint64_t seed = 7) {
    const fs::path config = path_ / (name + ".yaml");
    write_file_atomic(
        config,
        fmt::format("kind: dit\nmodel: {}\nwork: {}\ncache: {}\nseed: {}\nlog_every: 1\n"
                    "checkpoint_every: 2\ncaption_dropout: 0.3\n"
                    "data: {{films: 8, toy: {{min_frames: 17, max_frames: 17, min_shots: 2, "
                    "max_shots: 3, min_shot_frames: 4}}}}\n"
                    "stages: [{{steps: {}, batch: 4, latent_frames: 4, learning_rate: 0.001, warmup: 1}}]\n",
                    (path_ / "model").string(), (path_ / name).string(), (path_ / "cache").string(), seed,
                    steps));
    return {"train",
            config.string(),
            "--device",
            test_device_name(),
            "--processes",
            std::to_string(processes),
            "--sequence-parallel",
            std::to_string(sequence)};
  }
  static std::vector<double> losses(const std::string& name) {
    std::vector<double> found;
    for (const auto& line : read_metrics(path_ / name)) {
      found.push_back(line["loss"]);
    }
    return found;
  }

  static fs::path path_;
};
fs::path Processes::path_;

TEST_F(Processes, MakeTheFilmThatOneMakes) {
  ASSERT_EQ(moga(generate("one", 1, 3)), 0) << errors();
  const FilmLatents one = latents("one");
  const double largest = one.latent_ZFHW.abs().max().item<double>();
  for (const int64_t processes : std::set<int64_t>{std::min<int64_t>(3, most()), most()}) {
    SCOPED_TRACE(processes);
    ASSERT_EQ(moga(generate("many", processes, 3)), 0) << errors();
    const FilmLatents many = latents("many");
    EXPECT_LE((many.latent_ZFHW - one.latent_ZFHW).abs().max().item<double>(), 1e-5 * largest);
    EXPECT_TRUE(torch::equal(many.groups_NFYX, one.groups_NFYX));
    EXPECT_TRUE(fs::exists(path_ / "many.mp4"));
  }
}

TEST_F(Processes, OneThatDiesEndsTheJobWithOneMessage) {
  const int64_t processes = std::min<int64_t>(3, most());
  const pid_t job = start(generate("never", processes, 9000));
  // Once they have begun to work together.
  for (int i = 0; i < 600 && errors().find(fmt::format("{} processes", processes)) == std::string::npos;
       ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  ASSERT_EQ(kill(std::stoi(children_of(job).at(1)), SIGKILL), 0);
  EXPECT_EQ(finish(job), 2);
  EXPECT_THAT(errors(),
              HasSubstr(fmt::format("moga: error: rank 1 of {} was ended by signal 9 (Killed)", processes)));
  EXPECT_EQ(errors().find("error"), errors().rfind("error:")) << errors();
}

TEST_F(Processes, BadInputIsSaidOnce) {
  std::vector<std::string> arguments = generate("bad", std::min<int64_t>(3, most()), 3);
  arguments[1] = (path_ / "missing.yaml").string();
  EXPECT_EQ(moga(arguments), 2);
  EXPECT_THAT(errors(), HasSubstr("missing.yaml"));
  EXPECT_EQ(errors().find("error:"), errors().rfind("error:")) << errors();
}

// The largest difference of two runs' weights after `step` steps, relative to the largest weight of a tensor.
double weight_difference(const fs::path& a, const fs::path& b, int64_t step) {
  const std::string file = fmt::format("checkpoint-{:08}/weights.safetensors", step);
  const auto first = SafetensorsFile(a / file).read_all();
  const auto second = SafetensorsFile(b / file).read_all();
  EXPECT_EQ(first.size(), second.size());
  double most = 0;
  for (const auto& [name, tensor] : first) {
    most = std::max(
        most, ((second.at(name) - tensor).abs().max() / tensor.abs().max().clamp_min(1e-3)).item<double>());
  }
  return most;
}

// AdamW divides a gradient by its size, so rounding of gradients near zero comes back in full: weights are
// held to a share of what the steps moved them by, losses to float32.
TEST_F(Processes, TrainAsOneDoes) {
  constexpr int64_t kSteps = 4;
  ASSERT_EQ(moga(train("alone", 1, 1, kSteps)), 0) << errors();
  const std::vector<double> expected = losses("alone");
  ASSERT_EQ(expected.size(), static_cast<size_t>(kSteps));
  for (const auto& [processes, sequence] : {std::pair(2, 1), std::pair(4, 2), std::pair(3, 3)}) {
    if (processes > most()) {
      continue;
    }
    SCOPED_TRACE(fmt::format("{} processes, {} share a film", processes, sequence));
    const std::string name = fmt::format("many{}x{}", processes, sequence);
    ASSERT_EQ(moga(train(name, processes, sequence, kSteps)), 0) << errors();
    const std::vector<double> found = losses(name);
    ASSERT_EQ(found.size(), expected.size());
    for (size_t step = 0; step < expected.size(); ++step) {
      EXPECT_NEAR(found[step], expected[step], 1e-4 * expected[step]) << "step " << step;
    }
    // On GPUs `moga train` multiplies in TF32, which rounds to 10 bits.
    EXPECT_LE(weight_difference(path_ / "alone", path_ / name, kSteps),
              test_device().is_cuda() ? 0.05 : 1e-3);
  }
}

TEST_F(Processes, AResumedRunHasTheSameBits) {
  constexpr int64_t kSteps = 4;
  const int64_t processes = std::min<int64_t>(4, most());
  ASSERT_EQ(moga(train("whole", processes, 2, kSteps)), 0) << errors();
  fs::copy(path_ / "whole", path_ / "resumed", fs::copy_options::recursive);
  fs::remove_all(path_ / "resumed" / "checkpoint-00000004");
  ASSERT_EQ(moga(train("resumed", processes, 2, kSteps)), 0) << errors();
  EXPECT_THAT(errors(), HasSubstr("at step 2"));
  // On GPUs sums of gradients come in any order.
  EXPECT_LE(weight_difference(path_ / "whole", path_ / "resumed", kSteps),
            test_device().is_cuda() ? 1e-3 : 0);
}

TEST_F(Processes, ARunGoesOnAfterALossAndWithAnotherNumberOfThem) {
  const auto wait_for_checkpoint = [&](int64_t step) {
    const fs::path checkpoint = path_ / "changed" / fmt::format("checkpoint-{:08}", step);
    for (int i = 0; i < 600 && !fs::exists(checkpoint); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  };
  pid_t job = start(train("changed", 2, 2, 40));
  wait_for_checkpoint(2);
  ASSERT_EQ(kill(std::stoi(children_of(job).at(1)), SIGKILL), 0);
  EXPECT_EQ(finish(job), 2);
  EXPECT_THAT(errors(), HasSubstr("rank 1 of 2 was ended by signal 9 (Killed)"));
  job = start(train("changed", 2, 2, 40));
  for (int i = 0; i < 600 && errors().find("continuing") == std::string::npos; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  ASSERT_EQ(kill(job, SIGTERM), 0);
  EXPECT_EQ(finish(job), 75) << errors();
  EXPECT_THAT(errors(), HasSubstr("run the same command to go on"));
  const int64_t others = most() < 3 ? 1 : 3;
  EXPECT_EQ(moga(train("changed", others, others, 40)), 0) << errors();
  EXPECT_THAT(errors(), HasSubstr(fmt::format("was made by 2 processes, {} go on", others)));
}

TEST_F(Processes, DifferentConfigsAreAnError) {
  train("other", 2, 1, 3, /*seed=*/8);
  const std::vector<std::string> command = train("same", 2, 1, 3);
  std::vector<std::string> different = command;
  different[1] = (path_ / "other.yaml").string();
  std::map<std::string, std::string> variables = {
      {"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "127.0.0.1"}, {"MASTER_PORT", "29617"}};
  const pid_t first = start(command, variables);
  variables["RANK"] = "1";
  const pid_t second = start(different, variables);
  EXPECT_EQ(finish(first), 2);
  EXPECT_EQ(finish(second), 2);
  EXPECT_THAT(read_file(path_ / "err1.txt"),
              HasSubstr("all ranks must have the same training config: rank 1 differs from rank 0"));
}

TEST_F(Processes, APortInUseIsAnError) {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  socklen_t size = sizeof(address);
  ASSERT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(listen(listener, 1), 0);
  ASSERT_EQ(getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size), 0);
  const std::string port = std::to_string(ntohs(address.sin_port));
  const pid_t job =
      start(train("port", 2, 1, 3),
            {{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "127.0.0.1"}, {"MASTER_PORT", port}});
  EXPECT_EQ(finish(job), 2);
  EXPECT_THAT(read_file(path_ / "err0.txt"), HasSubstr("port " + port + " is in use on this machine"));
  close(listener);
}

}  // namespace
}  // namespace moga
