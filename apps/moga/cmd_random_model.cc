// moga random-model: a model with random weights, to try out time and memory.
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <string>

#include "commands.h"
#include "model_option.h"
#include "pipeline/random_model.h"

namespace moga {
namespace {

struct RandomModelOptions {
  std::string model;
  std::string output;
  std::string tokenizer = default_model() + "/tokenizer.model";
  bool full_text_encoder = false;
  uint64_t seed = 0;
};

void random_model(const RandomModelOptions& options) {
  RandomModelRequest request;
  request.model = model_config(options.model);
  request.output = options.output;
  request.tokenizer = options.tokenizer;
  request.full_text_encoder = options.full_text_encoder;
  request.seed = options.seed;
  write_random_model(request);
  fmt::print("{}: {} with random weights, in Wan's layout\n", options.output, options.model);
}

}  // namespace

void add_random_model(CLI::App& app) {
  auto options = std::make_shared<RandomModelOptions>();
  CLI::App* command = app.add_subcommand("random-model",
                                         "Write a model with random weights in Wan's layout, to try out time "
                                         "and memory before downloading one.\n"
                                         "Its films are noise. wan-1.3b takes 3.4 GB, wan-14b 29 GB.");
  command->add_option("MODEL", options->model, "Sizes: wan-1.3b, wan-14b, toy, or the path of a moga.json")
      ->required();
  command->add_option("-o,--output", options->output, "Folder to write; replaced if it exists")->required();
  command->add_option("--tokenizer", options->tokenizer, "Sentencepiece model to put beside it")
      ->capture_default_str();
  command->add_flag("--full-text-encoder", options->full_text_encoder,
                    "The text encoder in its full size (11 GB more), not one thin block");
  command->add_option("--seed", options->seed, "Seed of the weights")->capture_default_str();
  command->callback([options] { random_model(*options); });
}

}  // namespace moga
