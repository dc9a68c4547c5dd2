// The loop on a problem small enough to look through: a linear layer that learns a fixed map.
#include "training/loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <limits>

#include "base/error.h"
#include "training/checkpoints.h"
#include "training/metrics.h"
#include "training/run_state.h"
#include "training/step_guard.h"

namespace moga {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class Loop : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "moga_loop_XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    path_ = name;
    config_.work = (path_ / "work").string();
    config_.log_every = 1;
    config_.stages[0].steps = 40;
    config_.stages[0].batch = 8;
    config_.stages[0].warmup = 4;
    config_.stages[0].learning_rate = 0.05;
    config_.stages.push_back(config_.stages[0]);
    config_.stages[1].name = "second";
  }
  void TearDown() override { fs::remove_all(path_); }

  // Runs and returns the layer's weight. `loss_factor` may spoil a step; `asked` sees every draw.
  torch::Tensor run(const TrainConfig& config,
                    const std::function<double(int64_t step)>& loss_factor = nullptr,
                    const RunOptions& options = {}) {
    torch::manual_seed(3);
    torch::nn::Linear layer(4, 2);
    FlatParameters flat({{"", layer.get()}}, torch::kCPU);
    const torch::Tensor target = torch::arange(8.0).view({2, 4}) / 8;
    TrainingStep step;
    step.inputs = [](const StepContext& context) -> StepInputs {
      const int64_t B = context.stage.batch;
      return {{torch::randn({B, 4}).slice(0, context.part.begin(B), context.part.end(B))}};
    };
    step.loss = [&](const StepContext& context, const StepInputs& inputs) {
      const double factor = loss_factor ? loss_factor(context.step) : 1;
      const torch::Tensor& x = inputs.tensors[0];
      const torch::Tensor loss = (layer(x) - torch::linear(x, target)).square().mean() * factor;
      return StepResult{loss,
                        {{"twice", 2 * loss.detach()}, {"matrix", torch::ones({2, 2}) * loss.detach()}}};
    };
    end_ = run_training(config, flat, step, options);
    return layer->weight.detach().clone();
  }
  std::string error_of(const std::function<void()>& action) {
    try {
      action();
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }

  fs::path path_;
  TrainConfig config_;
  TrainEnd end_ = TrainEnd::kInterrupted;
};

TEST_F(Loop, LearnsAndWritesItsMetrics) {
  const torch::Tensor weight = run(config_);
  EXPECT_EQ(end_, TrainEnd::kFinished);
  EXPECT_LT((weight - torch::arange(8.0).view({2, 4}) / 8).abs().max().item<double>(), 0.2);
  const auto lines = read_metrics(config_.work);
  ASSERT_EQ(lines.size(), 80U);
  EXPECT_LT(lines.back()["loss"].get<double>(), 0.05 * lines.front()["loss"].get<double>());
  EXPECT_EQ(lines[40]["stage"], "second");
  EXPECT_NEAR(lines[7]["twice"].get<double>(), 2 * lines[7]["loss"].get<double>(), 1e-6);
  EXPECT_NEAR(lines[7]["matrix"][1][0].get<double>(), lines[7]["loss"].get<double>(), 1e-6);
  EXPECT_NEAR(lines[1]["learning_rate"].get<double>(), 0.025, 1e-12);
}

TEST_F(Loop, PartsOfABatchGiveTheSameSteps) {
  const torch::Tensor whole = run(config_);
  const auto expected = read_metrics(config_.work);
  config_.work = (path_ / "parts").string();
  config_.stages[0].accumulate = 4;
  config_.stages[1].accumulate = 2;
  EXPECT_TRUE(run(config_).allclose(whole, 1e-4, 1e-5));
  const auto found = read_metrics(config_.work);
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(found[i]["loss"].get<double>(), expected[i]["loss"].get<double>(), 1e-4);
    EXPECT_NEAR(found[i]["twice"].get<double>(), expected[i]["twice"].get<double>(), 2e-4);
    EXPECT_NEAR(found[i]["gradient_norm"].get<double>(), expected[i]["gradient_norm"].get<double>(), 1e-3);
  }
}

// Interrupted at every step, with and without a checkpoint in between, and with a guard that refused some.
TEST_F(Loop, ResumesWithTheSameBits) {
  const auto spoil = [](int64_t step) { return step == 11 || step == 30 ? 1e12 : 1.0; };
  const torch::Tensor whole = run(config_, spoil);
  config_.work = (path_ / "resumed").string();
  config_.checkpoint_every = 7;
  torch::Tensor last;
  int starts = 0;
  do {
    const int64_t stop = 13 * starts + 5;
    last = run(config_, [&](int64_t step) {
      if (step == stop) {
        std::raise(SIGTERM);
      }
      return spoil(step);
    });
    ++starts;
  } while (end_ == TrainEnd::kInterrupted);
  EXPECT_EQ(starts, 7);
  EXPECT_TRUE(last.equal(whole));
  const auto lines = read_metrics(config_.work);
  ASSERT_EQ(lines.size(), 80U);
  for (size_t i = 0; i < lines.size(); ++i) {
    EXPECT_EQ(lines[i]["step"], static_cast<int64_t>(i));
  }
  EXPECT_TRUE(lines[30].contains("skipped"));
}

TEST_F(Loop, BadStepsAreSkippedAndReported) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const torch::Tensor weight = run(config_, [&](int64_t step) {
    return step == 5 ? nan : step == 25 ? 1e9 : 1.0;
  });
  EXPECT_TRUE(weight.isfinite().all().item<bool>());
  const auto lines = read_metrics(config_.work);
  EXPECT_THAT(lines[5]["skipped"].get<std::string>(), HasSubstr("the loss is nan"));
  EXPECT_THAT(lines[25]["skipped"].get<std::string>(), HasSubstr("usual is at most"));
  EXPECT_FALSE(lines[6].contains("skipped"));
}

TEST_F(Loop, TooManyBadStepsStopWithTheLastGoodState) {
  config_.max_skipped = 3;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto spoil = [&](int64_t step) { return step >= 20 ? nan : 1.0; };
  const std::string error = error_of([&] { run(config_, spoil); });
  EXPECT_THAT(error, HasSubstr("3 steps in a row were skipped"));
  EXPECT_THAT(error, HasSubstr("checkpoint-00000023"));
  const auto saved = Checkpoints(config_.work, 2).load_newest();
  ASSERT_TRUE(saved);
  EXPECT_EQ(saved->step, 23);
  EXPECT_EQ(saved->state["optimizer_steps"], 20);
  EXPECT_TRUE(saved->sets.at("weights").at("weight").isfinite().all().item<bool>());
  // Once the cause is gone, it goes on from there.
  run(config_);
  EXPECT_EQ(end_, TrainEnd::kFinished);
}

// Training goes on without checkpoints; only the end, which would lose the result, is an error.
TEST_F(Loop, AFullDiskIsSurvivedUntilTheEnd) {
  // In a process of its own: limits are a process's, and libtorch's threads do not survive a fork.
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  config_.checkpoint_every = 10;
  const auto train_on_full_disk = [&] {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {400, 400};  // of a file: checkpoints are larger
    ::setrlimit(RLIMIT_FSIZE, &limit);
    int64_t last = 0;
    const std::string error = error_of([&] {
      run(config_, [&](int64_t step) {
        last = step;
        return 1.0;
      });
    });
    const bool right = last == 79 && error.find("cannot write") != std::string::npos &&
                       Checkpoints(config_.work, 2).steps().empty();
    ::_exit(right ? 0 : 1);
  };
  EXPECT_EXIT(train_on_full_disk(), testing::ExitedWithCode(0), "");
}

TEST_F(Loop, TasksSeeTheAverageAndChangeNothing) {
  const torch::Tensor plain = run(config_);
  config_.work = (path_ / "tasks").string();
  RunOptions options;
  std::vector<int64_t> seen;
  options.tasks.push_back({30, [&](int64_t step) -> nlohmann::ordered_json {
                             seen.push_back(step);
                             return {{"validation", {{"0.5", 1.5}}}};
                           }});
  EXPECT_TRUE(run(config_, nullptr, options).equal(plain));
  EXPECT_THAT(seen, testing::ElementsAre(30, 60, 80));
  int validations = 0;
  for (const auto& line : read_metrics(config_.work)) {
    validations += line.contains("validation") ? 1 : 0;
  }
  EXPECT_EQ(validations, 3);
}

TEST_F(Loop, OptimizerStateGoesThereAndBack) {
  torch::Tensor values = torch::ones({5});
  values.mutable_grad() = torch::arange(5.0);
  Optimizer optimizer(values, {});
  EXPECT_EQ(optimizer.state().first_moment.abs().sum().item<double>(), 0);
  optimizer.step(0.1);
  optimizer.step(0.1);
  torch::Tensor copy = values.detach().clone();
  copy.mutable_grad() = torch::arange(5.0);
  Optimizer other(copy, {});
  other.set_state(optimizer.state());
  optimizer.step(0.2);
  other.step(0.2);
  EXPECT_TRUE(copy.equal(values));
  EXPECT_TRUE(other.average().equal(optimizer.average()));
  EXPECT_EQ(other.state().steps, 3);
}

// Larger than a piece of those that a step goes through, and not a multiple of it.
TEST(OptimizerTest, StepsAreLibtorchs) {
  torch::manual_seed(4);
  torch::Tensor values = torch::randn({100003});
  torch::Tensor expected = values.clone().requires_grad_(true);
  torch::Tensor average = values.clone();
  values.mutable_grad() = torch::empty_like(values);
  Optimizer optimizer(values, {});
  torch::optim::AdamW adam({expected},
                           torch::optim::AdamWOptions(1e-2).betas({0.9, 0.99}).weight_decay(0.01));
  for (int step = 0; step < 4; ++step) {
    const torch::Tensor gradient = torch::randn_like(values);
    values.mutable_grad().copy_(gradient);
    expected.mutable_grad() = gradient;
    optimizer.step(1e-2);
    adam.step();
    average.lerp_(expected.detach(), 1 - (1.0 + step) / (10.0 + step));
  }
  EXPECT_LT((values - expected.detach()).abs().max().item<double>(), 1e-6);
  EXPECT_LT((optimizer.average() - average).abs().max().item<double>(), 1e-6);
}

TEST(StepGuardTest, KnowsSpikesAndLevels) {
  StepGuard guard({10, 5});
  const auto wave = [](int i) { return 1 + 0.3 * std::sin(i * 1.7); };
  for (int i = 0; i < 200; ++i) {  // a falling loss with usual noise
    EXPECT_EQ(guard.judge(wave(i) / (1 + i * 0.01), wave(i + 1)), "") << i;
  }
  const nlohmann::json before = guard.state();
  EXPECT_THAT(guard.judge(500, 1), HasSubstr("the loss is 500"));
  EXPECT_THAT(guard.judge(0.5, 1e5), HasSubstr("the gradient's norm is 1e+05"));
  EXPECT_THAT(guard.judge(0.5, std::numeric_limits<double>::infinity()), HasSubstr("norm is inf"));
  EXPECT_EQ(guard.skipped_in_a_row(), 3);
  EXPECT_EQ(guard.judge(0.5, 1), "");
  EXPECT_EQ(guard.skipped_in_a_row(), 0);
  EXPECT_EQ(guard.judge(-1, 1), "");  // a loss below zero is none
  StepGuard other({10, 5});
  other.set_state(nlohmann::json::parse(before.dump()));
  EXPECT_EQ(other.state(), before);  // through text, exactly
  StepGuard off({0, 5});
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(off.judge(i % 7 == 0 ? 1e9 : 1, 1), "");
  }
  EXPECT_THROW(other.set_state({{"losses", 3}}), Error);
}

}  // namespace
}  // namespace moga
