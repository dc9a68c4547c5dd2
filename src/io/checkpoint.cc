#include "io/checkpoint.h"

#include <nlohmann/json.hpp>

#include "base/atomic_file.h"
#include "base/error.h"

namespace moga {

namespace fs = std::filesystem;

namespace {

constexpr size_t kMaxIndex = 100'000'000;  // bytes

// tensor name -> shard file name.
std::map<std::string, std::string> read_index(const fs::path& path) {
  const auto json = nlohmann::json::parse(read_file(path, kMaxIndex), nullptr, /*allow_exceptions=*/false);
  const bool shaped = json.is_object() && json.contains("weight_map") && json["weight_map"].is_object();
  MOGA_CHECK(shaped, "{}: expected an index with a \"weight_map\"", path.string());
  std::map<std::string, std::string> shards;
  for (const auto& [name, shard] : json["weight_map"].items()) {
    MOGA_CHECK(shard.is_string(), "{}: '{}' has no shard", path.string(), name);
    const auto file = shard.get<std::string>();
    // Only names beside the index: a downloaded index must not make us read other places.
    MOGA_CHECK(!file.empty() && fs::path(file).filename() == fs::path(file) && file != ".." && file != ".",
               "{}: '{}' names '{}', expected a file beside the index", path.string(), name, file);
    shards.emplace(name, file);
  }
  MOGA_CHECK(!shards.empty(), "{}: the index names no tensors", path.string());
  return shards;
}

}  // namespace

Checkpoint::Checkpoint(fs::path path) : path_(std::move(path)) {
  if (path_.extension() != ".json") {
    files_.push_back(open_tensor_file(path_));
    tensors_ = files_.front()->tensors();
    find_scales();
    return;
  }
  std::map<std::string, size_t> opened;
  for (const auto& [name, shard] : read_index(path_)) {
    const auto [entry, fresh] = opened.emplace(shard, files_.size());
    if (fresh) {
      const fs::path file = path_.parent_path() / shard;
      MOGA_CHECK(fs::exists(file), "{}: the shard {} is missing", path_.string(), shard);
      files_.push_back(open_tensor_file(file));
    }
    const auto& known = files_[entry->second]->tensors();
    const auto found = known.find(name);
    MOGA_CHECK(found != known.end(), "{}: '{}' should be in {}, which has no such tensor", path_.string(),
               name, shard);
    tensors_.emplace(name, found->second);
    file_of_.emplace(name, entry->second);
  }
  find_scales();
}

void Checkpoint::find_scales() {
  constexpr std::string_view kScale = ".scale_weight";
  for (const auto& [name, info] : tensors_) {
    if (!name.ends_with(kScale) || info.numel() != 1) {
      continue;
    }
    const std::string weight = name.substr(0, name.size() - kScale.size()) + ".weight";
    const auto found = tensors_.find(weight);
    if (found != tensors_.end() && found->second.stored.starts_with("F8_")) {
      scales_.emplace(weight, name);
    }
  }
  if (scales_.empty()) {
    return;
  }
  for (const auto& [weight, scale] : scales_) {
    tensors_.erase(scale);
    tensors_.erase(scale.substr(0, scale.size() - kScale.size()) + ".scale_input");
  }
  std::erase_if(tensors_, [](const auto& entry) {
    return entry.first == "scaled_fp8" || entry.first.ends_with(".scaled_fp8");
  });
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> names;
  names.reserve(tensors_.size());
  for (const auto& entry : tensors_) {
    names.push_back(entry.first);
  }
  return names;
}

std::vector<fs::path> Checkpoint::files() const {
  std::vector<fs::path> paths;
  if (files_.front()->path() != path_) {
    paths.push_back(path_);
  }
  for (const auto& file : files_) {
    paths.push_back(file->path());
  }
  return paths;
}

std::string Checkpoint::format() const {
  return files_.front()->path() != path_ ? fmt::format("{} files with an index", files_.size())
                                         : files_.front()->format();
}

torch::Tensor Checkpoint::read(const std::string& name, std::optional<torch::ScalarType> dtype) const {
  const auto scale = scales_.find(name);
  if (scale == scales_.end()) {
    return read_stored(name, dtype);
  }
  const torch::Tensor factor = read_stored(scale->second, torch::kFloat32).reshape({});
  return read_stored(name, torch::kFloat32).mul_(factor).to(dtype.value_or(tensors_.at(name).dtype));
}

torch::Tensor Checkpoint::read_stored(const std::string& name, std::optional<torch::ScalarType> dtype) const {
  const auto found = file_of_.find(name);
  return files_[found == file_of_.end() ? 0 : found->second]->read(name, dtype);
}

}  // namespace moga
