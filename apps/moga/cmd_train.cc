// moga train: the tokenizer, the VAE, the judge or the diffusion transformer from a YAML config.
#include <chrono>
#include <cstdio>
#include <memory>

#include "base/error.h"
#include "base/log.h"
#include "base/progress.h"
#include "commands.h"
#include "device.h"
#include "evaluation/judge.h"
#include "pipeline/decode.h"
#include "pipeline/generate.h"
#include "processes.h"
#include "train_cost.h"
#include "training/plot.h"
#include "training/train.h"

namespace moga {

namespace {

// A run that was asked to stop saved its state: whoever started it can start it again (EX_TEMPFAIL).
constexpr int kExitInterrupted = 75;

struct TrainCommand {
  std::string config;
  std::string device = "auto";
  std::string plot;
  bool explain = false;
  bool check = false;
  bool accept_changes = false;
  ProcessOptions processes;
  int64_t sequence = 1;
  double tflops = 360;  // measured for a training step on an H200 (docs/performance.md)
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

// One of config.samples' films: generated as `moga generate` does.
void make_sample(const ModelSource& model, const std::filesystem::path& script,
                 const std::filesystem::path& film, torch::Device device) {
  const torch::NoGradGuard guard;
  GenerateRequest request;
  request.model = model;
  request.script = load_script(script, script_defaults(ModelFolder(model).config()));
  request.output = film;
  const FilmLatents latents = sample_film(request, device);
  DecodeRequest decode;
  decode.model = model;
  decode.output = film;
  decode_film(latents, decode, device);
  std::filesystem::remove(latents_path(film));
}

TrainEnd train(const TrainConfig& config, torch::Device device, const TrainOptions& options) {
  switch (config.kind) {
    case TrainKind::kTokenizer:
      return train_toy_tokenizer(config);
    case TrainKind::kVae:
      return train_vae(config, device, options);
    case TrainKind::kDit:
      return train_dit(config, device, options);
    case TrainKind::kJudge:
      return train_judge_from(config, device);
  }
  fail("unknown kind of training");
}

void run_train(const TrainCommand& command) {
  if (command.explain) {
    fmt::print("Keys of a training config (YAML), with their defaults:\n\n{}", explain_config<TrainConfig>());
    return;
  }
  if (!command.plot.empty()) {
    fmt::print("{}\n", plot_run(command.plot).string());
    return;
  }
  MOGA_CHECK(!command.config.empty(), "give a training config, or --explain to see its keys");
  const TrainConfig config = load_config<TrainConfig>(command.config);
  check_config(config, command.config);
  if (command.check) {
    fmt::print("{}: {} of {}, {} steps in {} stages\n", command.config, enum_name(config.kind), config.model,
               total_steps(config), config.stages.size());
    if (config.kind == TrainKind::kDit) {
      fmt::print("\n{}", training_cost(config, command.tflops * 1e12));
    }
    return;
  }
  check_paths(config, command.config);
  if (command.processes.ran_elsewhere()) {
    return;
  }
  torch::Device device = choose_device(command.device);
  const auto world = command.processes.join(device);
  if (device.is_cuda()) {
    // Products in TensorFloat-32: the optimiser's state and the sums stay float32.
    at::globalContext().setAllowTF32CuBLAS(true);
    at::globalContext().setAllowTF32CuDNN(true);
    at::globalContext().setBenchmarkCuDNN(true);  // all steps of a stage have the same sizes
  } else if (config.precision == TrainPrecision::kBfloat16 && !cpu_multiplies_bf16()) {
    spdlog::warn(
        "this CPU has no bfloat16 products, which libtorch then imitates: precision: float32 is faster");
  }
  TrainOptions options;
  options.accept_changes = command.accept_changes;
  options.make_sample = [&](const ModelSource& model, const std::filesystem::path& script,
                            const std::filesystem::path& film) { make_sample(model, script, film, device); };
  if (world) {
    MOGA_CHECK(config.kind == TrainKind::kDit,
               "only transformers (kind: dit) are trained by several processes, found kind: {}",
               enum_name(config.kind));
    world->check_equal(config_to_json(config).dump(), "training config");
    options.mesh = make_mesh(world, command.sequence);
  } else {
    MOGA_CHECK(command.sequence == 1, "--sequence-parallel {} needs as many processes", command.sequence);
  }
  const auto start = std::chrono::steady_clock::now();
  const TrainEnd end = train(config, device, options);
  report_waiting(world, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  if (end == TrainEnd::kInterrupted) {
    throw CLI::RuntimeError(kExitInterrupted);
  }
  spdlog::info("done: {} has the trained {}", config.model, enum_name(config.kind));
}

}  // namespace

void add_train(CLI::App& app) {
  auto options = std::make_shared<TrainCommand>();
  CLI::App* command =
      app.add_subcommand("train", "Train a model from a YAML config; interrupted runs continue");
  command->add_option("config", options->config, "Training config (see examples/training and --explain)");
  command->add_option("--device", options->device, "auto, cpu or cuda")->capture_default_str();
  command->add_flag("--explain", options->explain, "Print every key of the config, its default and meaning");
  command->add_flag("--check", options->check,
                    "Only check the config, and say what a transformer's training costs");
  command
      ->add_option("--tflops", options->tflops,
                   "Rate of one GPU for --check's hours, in 10^12 operations a second")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_option(
      "--plot", options->plot,
      "Draw the curves of a run, given its work folder, into its metrics.svg (also while it trains)");
  command->add_flag("--accept-changes", options->accept_changes,
                    "Go on from a checkpoint although settings differ from those it was made with");
  options->processes.add_to(*command);
  command
      ->add_option(
          "--sequence-parallel", options->sequence,
          "Processes that share each film's tokens (divides the number of processes); the others take "
          "other films")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->callback([options] { run_train(*options); });
}

}  // namespace moga
