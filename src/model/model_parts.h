// Finding a model's parts on disk, however it was downloaded. Files are known by the names of the tensors in
// them, not by their own, so that renamed files work too.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/config.h"
#include "model/wan_config.h"
#include "model/weight_names.h"

namespace moga {

struct LoraChoice {
  std::filesystem::path file;
  double strength = 1;
};

// What a user points at: a folder or a transformer's file, and what replaces or completes it.
struct ModelSource {
  std::filesystem::path model;
  std::filesystem::path vae;           // files; empty: found with the model
  std::filesystem::path text_encoder;  //
  std::filesystem::path tokenizer;     //
  std::vector<LoraChoice> loras;
  std::optional<Precision> precision;  // of the weights; absent: default_precision()

  ModelSource() = default;
  ModelSource(std::filesystem::path path) : model(std::move(path)) {}  // NOLINT: a path is a model
  ModelSource(const std::string& path) : model(path) {}                // NOLINT
  ModelSource(const char* path) : model(path) {}                       // NOLINT
};

enum class ModelLayout { kMoga, kWan, kDiffusers, kSingleFile };
template <>
struct EnumNames<ModelLayout> {
  static constexpr std::array<std::pair<ModelLayout, const char*>, 4> kNames = {
      {{ModelLayout::kMoga, "moga folder"},
       {ModelLayout::kWan, "wan folder"},
       {ModelLayout::kDiffusers, "diffusers folder"},
       {ModelLayout::kSingleFile, "single file"}}};
};

struct FoundPart {
  RecognisedPart what;
  std::filesystem::path file;    // what Checkpoint opens
  std::filesystem::path config;  // config.json beside it, or empty
};

struct ModelParts {
  ModelLayout layout = ModelLayout::kMoga;
  std::filesystem::path folder;
  std::vector<FoundPart> found;
  std::filesystem::path tokenizer;      // a sentencepiece model, or empty
  std::vector<std::string> unreadable;  // what was wrong with files that could not be looked into

  // Nothing if there is none; throws Error that names the candidates if there are several.
  std::optional<FoundPart> part(PartKind kind) const;
};

// Throws Error if there is nothing at `source.model`, or if it or a file given for a part is not what it
// should be.
ModelParts find_model_parts(const ModelSource& source);

// "FILE" or "FILE:STRENGTH" as --lora takes it.
LoraChoice parse_lora_choice(const std::string& text);

}  // namespace moga
