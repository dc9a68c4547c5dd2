#include "model/model_parts.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/error.h"
#include "io/checkpoint.h"

namespace moga {

namespace fs = std::filesystem;

namespace {

constexpr size_t kMaxFiles = 200;  // weight files looked into in one folder

fs::path if_exists(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored) ? path : fs::path();
}

bool has_extension(const fs::path& file, std::initializer_list<const char*> extensions) {
  const std::string extension = file.extension().string();
  return std::any_of(extensions.begin(), extensions.end(), [&](const char* e) { return extension == e; });
}

// NAME-00001-of-00006.safetensors
bool is_shard(const fs::path& file) {
  const std::string stem = file.stem().string();
  const size_t of = stem.rfind("-of-");
  return of != std::string::npos && stem.find_first_not_of("0123456789", of + 4) == std::string::npos;
}

// The weight files of a folder, indices in place of their shards.
std::vector<fs::path> weight_files(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  bool indexed = false;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const fs::path& file = entry.path();
    const bool index = file.string().ends_with(".index.json");
    indexed = indexed || index;
    if (index || has_extension(file, {".safetensors", ".pth", ".pt", ".bin"})) {
      files.push_back(file);
    }
  }
  if (indexed) {
    std::erase_if(files, is_shard);
  }
  std::sort(files.begin(), files.end());
  files.resize(std::min(files.size(), kMaxFiles));
  return files;
}

std::optional<FoundPart> look_into(const fs::path& file) {
  const auto what = recognise_part(Checkpoint(file).names());
  if (!what) {
    return std::nullopt;
  }
  return FoundPart{*what, file, if_exists(file.parent_path() / "config.json")};
}

// Adds the parts in `folder` of the kinds in `kinds`. Other files are passed over, damaged ones noted.
void add_from(const fs::path& folder, std::initializer_list<PartKind> kinds, ModelParts& parts) {
  for (const fs::path& file : weight_files(folder)) {
    std::optional<FoundPart> part;
    try {
      part = look_into(file);
    } catch (const Error& error) {
      parts.unreadable.emplace_back(error.what());
      continue;
    }
    if (part && std::find(kinds.begin(), kinds.end(), part->what.part) != kinds.end()) {
      // In a folder of several parts config.json is the transformer's.
      if (part->what.part != PartKind::kDit && kinds.size() > 1) {
        part->config.clear();
      }
      parts.found.push_back(*part);
    }
  }
}

fs::path find_tokenizer(const std::vector<fs::path>& folders) {
  for (const fs::path& folder : folders) {
    for (const char* name : {"tokenizer.model", "spiece.model", "google/umt5-xxl/spiece.model",
                             "tokenizer/spiece.model", "tokenizer/tokenizer.model"}) {
      if (fs::path file = if_exists(folder / name); !file.empty()) {
        return file;
      }
    }
  }
  return {};
}

ModelParts find_in_folder(const fs::path& folder) {
  ModelParts parts;
  parts.folder = folder;
  std::error_code ignored;
  if (fs::exists(folder / "moga.json", ignored)) {
    parts.layout = ModelLayout::kMoga;
    add_from(folder, {PartKind::kDit, PartKind::kVae, PartKind::kText}, parts);
    parts.tokenizer = find_tokenizer({folder});
    return parts;
  }
  if (fs::is_directory(folder / "transformer", ignored)) {
    parts.layout = ModelLayout::kDiffusers;
    add_from(folder / "transformer", {PartKind::kDit}, parts);
    add_from(folder / "vae", {PartKind::kVae}, parts);
    add_from(folder / "text_encoder", {PartKind::kText}, parts);
    parts.tokenizer = find_tokenizer({folder});
    return parts;
  }
  parts.layout = ModelLayout::kWan;
  add_from(folder, {PartKind::kDit, PartKind::kVae, PartKind::kText}, parts);
  parts.tokenizer = find_tokenizer({folder});
  return parts;
}

ModelParts find_around_file(const fs::path& file) {
  ModelParts parts;
  parts.layout = ModelLayout::kSingleFile;
  parts.folder = file.parent_path().empty() ? fs::path(".") : file.parent_path();
  const auto dit = look_into(file);
  MOGA_CHECK(
      dit && dit->what.part == PartKind::kDit,
      "{}: expected a Wan transformer's weights, found {}; give the transformer's file or a model folder",
      file.string(), dit ? "a " + enum_name(dit->what.part) : "other tensors");
  parts.found.push_back(*dit);
  // ComfyUI's models folder has diffusion_models/, vae/, text_encoders/ beside each other.
  std::vector<fs::path> folders = {parts.folder};
  for (const char* name : {"vae", "text_encoders", "text_encoder", "clip", "tokenizer"}) {
    folders.push_back(parts.folder / ".." / name);
    folders.push_back(parts.folder / name);
  }
  for (const fs::path& folder : folders) {
    add_from(folder, {PartKind::kVae, PartKind::kText}, parts);
  }
  parts.tokenizer = find_tokenizer(folders);
  return parts;
}

// Replaces the part by the file (or the folder that holds one) that the user named.
void choose(ModelParts& parts, PartKind kind, const fs::path& given) {
  if (given.empty()) {
    return;
  }
  ModelParts there;
  if (fs::is_directory(given)) {
    add_from(given, {kind}, there);
  } else if (auto part = look_into(given); part && part->what.part == kind) {
    there.found.push_back(*part);
  }
  MOGA_CHECK(!there.found.empty(), "{} holds no weights of a Wan {}", given.string(), enum_name(kind));
  std::erase_if(parts.found, [&](const FoundPart& part) { return part.what.part == kind; });
  parts.found.insert(parts.found.end(), there.found.begin(), there.found.end());
}

}  // namespace

std::optional<FoundPart> ModelParts::part(PartKind kind) const {
  std::vector<FoundPart> all;
  std::vector<std::string> files;
  for (const FoundPart& candidate : found) {
    if (candidate.what.part == kind) {
      all.push_back(candidate);
      files.push_back(candidate.file.filename().string());
    }
  }
  MOGA_CHECK(all.size() <= 1, "{} has several files for the {}: {}; name one of them ({})", folder.string(),
             enum_name(kind), fmt::join(files, ", "),
             kind == PartKind::kDit   ? "--model FILE"
             : kind == PartKind::kVae ? "--vae FILE"
                                      : "--text-encoder FILE");
  return all.empty() ? std::nullopt : std::optional(all.front());
}

ModelParts find_model_parts(const ModelSource& source) {
  std::error_code ignored;
  MOGA_CHECK(fs::exists(source.model, ignored), "no model at {}", source.model.string());
  ModelParts parts =
      fs::is_directory(source.model, ignored) ? find_in_folder(source.model) : find_around_file(source.model);
  choose(parts, PartKind::kVae, source.vae);
  choose(parts, PartKind::kText, source.text_encoder);
  if (!source.tokenizer.empty()) {
    parts.tokenizer = fs::is_directory(source.tokenizer, ignored) ? find_tokenizer({source.tokenizer})
                                                                  : if_exists(source.tokenizer);
    MOGA_CHECK(!parts.tokenizer.empty(), "no sentencepiece model (spiece.model) at {}",
               source.tokenizer.string());
  }
  return parts;
}

LoraChoice parse_lora_choice(const std::string& text) {
  LoraChoice choice;
  choice.file = text;
  const size_t colon = text.rfind(':');
  std::error_code ignored;
  if (colon != std::string::npos && !fs::exists(choice.file, ignored)) {
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data() + colon + 1, end, choice.strength);
    MOGA_CHECK(error == std::errc() && stop == end && std::isfinite(choice.strength),
               "--lora {}: expected FILE or FILE:STRENGTH with a number, such as style.safetensors:0.8",
               text);
    choice.file = text.substr(0, colon);
  }
  MOGA_CHECK(fs::exists(choice.file, ignored), "--lora: no file {}", choice.file.string());
  return choice;
}

}  // namespace moga
