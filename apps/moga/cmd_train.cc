// moga train: the tokenizer, the VAE, the judge or the diffusion transformer from a YAML config.
#include <cstdio>
#include <memory>

#include "base/error.h"
#include "base/log.h"
#include "base/progress.h"
#include "commands.h"
#include "device.h"
#include "evaluation/judge.h"
#include "training/train.h"

namespace moga {

namespace {

struct TrainOptions {
  std::string config;
  std::string device = "auto";
  bool explain = false;
};

TrainEnd train_judge_from(const TrainConfig& config, torch::Device device) {
  const StageConfig& stage = config.stages.at(0);
  JudgeTraining training;
  training.steps = stage.steps;
  training.batch = stage.batch;
  training.learning_rate = stage.learning_rate;
  training.seed = config.seed;
  Progress progress("train judge", stage.steps, "step");
  const Judge judge = train_judge(
      training, device, [&](int64_t, double loss) { progress.advance(1, fmt::format("loss {:.4f}", loss)); });
  judge.save(std::filesystem::path(config.model) / "judge.safetensors");
  return TrainEnd::kFinished;
}

TrainEnd train(const TrainConfig& config, torch::Device device) {
  switch (config.kind) {
    case TrainKind::kTokenizer:
      return train_toy_tokenizer(config);
    case TrainKind::kVae:
      return train_vae(config, device);
    case TrainKind::kDit:
      return train_dit(config, device);
    case TrainKind::kJudge:
      return train_judge_from(config, device);
  }
  fail("unknown kind of training");
}

void run_train(const TrainOptions& options) {
  if (options.explain) {
    fmt::print("Keys of a training config (YAML), with their defaults:\n\n{}", explain_config<TrainConfig>());
    return;
  }
  MOGA_CHECK(!options.config.empty(), "give a training config, or --explain to see its keys");
  const TrainConfig config = load_config<TrainConfig>(options.config);
  const torch::Device device = choose_device(options.device);
  if (device.is_cuda()) {
    // Products in TensorFloat-32: the optimiser's state and the sums stay float32.
    at::globalContext().setAllowTF32CuBLAS(true);
    at::globalContext().setAllowTF32CuDNN(true);
    at::globalContext().setBenchmarkCuDNN(true);  // all steps of a stage have the same sizes
  }
  if (train(config, device) == TrainEnd::kFinished) {
    spdlog::info("done: {} has the trained {}", config.model, enum_name(config.kind));
  }
}

}  // namespace

void add_train(CLI::App& app) {
  auto options = std::make_shared<TrainOptions>();
  CLI::App* command =
      app.add_subcommand("train", "Train a model from a YAML config; interrupted runs continue");
  command->add_option("config", options->config, "Training config (see examples/training and --explain)");
  command->add_option("--device", options->device, "auto, cpu or cuda")->capture_default_str();
  command->add_flag("--explain", options->explain, "Print every key of the config, its default and meaning");
  command->callback([options] { run_train(*options); });
}

}  // namespace moga
