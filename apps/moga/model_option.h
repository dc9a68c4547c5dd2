// --model and its companions, and where the shipped model lies.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "model/model_parts.h"

namespace moga {

// MOGA_MODEL, else assets/toy of the source tree that this program was built in, else assets/toy from here.
inline std::string default_model() {
  namespace fs = std::filesystem;
  if (const char* model = std::getenv("MOGA_MODEL"); model != nullptr && *model != '\0') {
    return model;
  }
  std::error_code ignored;
  const fs::path program = fs::read_symlink("/proc/self/exe", ignored);
  const fs::path beside = program.parent_path().parent_path().parent_path() / "assets" / "toy";
  return !ignored && fs::exists(beside / "moga.json") ? beside.string() : "assets/toy";
}

inline constexpr const char* kModelHelp =
    "Model: a folder (ours, Wan's or diffusers') or a transformer's file; see docs/models.md (default: "
    "MOGA_MODEL, or "
    "the toy model that comes with the program)";

// Where a model's parts are, as options of a command.
struct ModelOptions {
  std::string model = default_model();
  std::string vae;
  std::string text_encoder;
  std::string tokenizer;
  std::vector<std::string> loras;
  std::string precision;

  void add_to(CLI::App& command) {
    command.add_option("--model", model, kModelHelp);
    command.add_option("--vae", vae, "VAE weights, if they are not with the model");
    command.add_option("--text-encoder", text_encoder,
                       "Text encoder weights, if they are not with the model");
    command.add_option("--tokenizer", tokenizer, "Sentencepiece model, if it is not with the model");
    command
        .add_option(
            "--lora", loras,
            "Adapter to merge into the transformer, FILE or FILE:STRENGTH; may be given several times")
        ->allow_extra_args(false);
    command.add_option("--precision", precision,
                       "Of the weights: bf16 or f32 (default: bf16 for large models, f32 for toys)");
  }

  ModelSource source() const {
    ModelSource result(model);
    result.vae = vae;
    result.text_encoder = text_encoder;
    result.tokenizer = tokenizer;
    for (const std::string& lora : loras) {
      result.loras.push_back(parse_lora_choice(lora));
    }
    if (!precision.empty()) {
      result.precision = enum_value<Precision>(precision, "--precision");
    }
    return result;
  }
};

}  // namespace moga
