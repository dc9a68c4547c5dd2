// A network's tensors in one file or in shards with an index.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/tensor_file.h"

namespace moga {

// float8 weights that come with a factor (`X.weight` in F8 beside a single `X.scale_weight`, as ComfyUI's
// "scaled fp8" files have them) are read as their product; the factors, `X.scale_input` (a factor of
// activations, for float8 products) and the mark `scaled_fp8` are not listed as tensors.
class Checkpoint {
 public:
  // `path`: a safetensors file, a PyTorch state dict, or NAME.index.json, whose shards lie beside it. Only
  // headers are read. Throws Error on damage, on an index that names other folders, and where index and
  // shards disagree.
  explicit Checkpoint(std::filesystem::path path);

  const std::filesystem::path& path() const { return path_; }
  const std::map<std::string, TensorInfo>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return files_.front()->metadata(); }
  std::vector<std::string> names() const;
  std::vector<std::filesystem::path> files() const;  // the index included
  std::string format() const;  // "safetensors", "PyTorch state dict", "2 files with an index"
  // As TensorFile::read; a scaled float8 weight is rounded once, after its factor.
  torch::Tensor read(const std::string& name, std::optional<torch::ScalarType> dtype = std::nullopt) const;

 private:
  torch::Tensor read_stored(const std::string& name, std::optional<torch::ScalarType> dtype) const;
  void find_scales();

  std::filesystem::path path_;
  std::vector<std::shared_ptr<const TensorFile>> files_;
  std::map<std::string, TensorInfo> tensors_;
  std::map<std::string, size_t> file_of_;      // only where there is more than one
  std::map<std::string, std::string> scales_;  // weight -> its factor
};

}  // namespace moga
