// moga eval toy: the toy model's marks on held-out scripts.
#include <fmt/format.h>

#include <cstdio>
#include <memory>

#include "commands.h"
#include "device.h"
#include "evaluation/toy_eval.h"
#include "model_option.h"

namespace moga {

namespace {

struct EvalOptions {
  ToyEvalRequest request;
  std::string model = default_model();
  std::string judge;
  std::string work = "out/eval";
  std::string attention;
  std::string device = "auto";
  bool json = false;
};

void evaluate(const EvalOptions& options) {
  ToyEvalRequest request = options.request;
  request.model = options.model;
  request.judge = options.judge;
  request.work = options.work;
  if (!options.attention.empty()) {
    request.attention = enum_value<AttentionKind>(options.attention, "--attention");
  }
  const ToyEvalResult result = evaluate_toy(request, choose_device(options.device));
  const std::string text = options.json ? toy_eval_json(result).dump(2) + "\n" : toy_eval_text(result);
  std::fwrite(text.data(), 1, text.size(), stdout);
}

}  // namespace

void add_eval(CLI::App& app) {
  CLI::App* group = app.add_subcommand("eval", "Measure a model");
  group->require_subcommand(1);
  auto options = std::make_shared<EvalOptions>();
  CLI::App* command = group->add_subcommand(
      "toy", "Generate held-out toy films and read looks and cuts back from their pixels");
  command->add_option("--model", options->model, kModelHelp);
  command->add_option("--judge", options->judge,
                      "Judge weights (default: judge.safetensors in the model folder)");
  command->add_option("--work", options->work, "Folder for latents while films are made")
      ->capture_default_str();
  command->add_option("--films", options->request.films, "Films to generate")->capture_default_str();
  command->add_option("--vae-films", options->request.vae_films, "True films through the VAE; 0: none")
      ->capture_default_str();
  command->add_option("--frames", options->request.frames, "Frames a film (4n + 1)")->capture_default_str();
  command->add_option("--min-shots", options->request.min_shots, "Fewest shots a film")
      ->capture_default_str();
  command->add_option("--max-shots", options->request.max_shots, "Most shots a film")->capture_default_str();
  command->add_option("--seed", options->request.first_seed, "Seed of the first film")->capture_default_str();
  command->add_option("--steps", options->request.steps, "Denoising steps (default: the model's)");
  command->add_option("--guidance", options->request.guidance, "Guidance (default: the model's)");
  command->add_option("--attention", options->attention,
                      "moga, full, static or dynamic (default: the model's)");
  command->add_option("--device", options->device, "auto, cpu or cuda")->capture_default_str();
  command->add_flag("--json", options->json, "Print the result as JSON");
  command->callback([options] { evaluate(*options); });
}

}  // namespace moga
