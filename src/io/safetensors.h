// The safetensors format (8-byte little-endian header length, JSON header, raw data), memory-mapped.
#pragma once

#include <torch/torch.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace moga {

struct TensorInfo {
  torch::ScalarType dtype;
  std::vector<int64_t> shape;
  size_t begin = 0;  // half-open byte range after the header
  size_t end = 0;
};

// An open file. Throws Error (file, what was found, what was expected) on anything malformed: truncation,
// header length beyond the file or 100 MB, bad JSON, overlapping or overflowing ranges, duplicate names,
// sizes that do not match dtype and shape, unknown dtypes.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::map<std::string, TensorInfo>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool contains(const std::string& name) const { return tensors_.count(name) != 0; }
  // A copy of the tensor (CPU, stored dtype). Throws Error if the name is unknown.
  torch::Tensor read(const std::string& name) const;
  std::map<std::string, torch::Tensor> read_all() const;

 private:
  struct Mapping;
  std::filesystem::path path_;
  std::shared_ptr<const Mapping> mapping_;
  std::map<std::string, TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
};

// Writes atomically; tensors are moved to the CPU and made contiguous; header padded with spaces to 8 bytes,
// tensors ordered by element size (largest first), then name, so that each is naturally aligned.
void write_safetensors(const std::filesystem::path& path, const std::map<std::string, torch::Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace moga
