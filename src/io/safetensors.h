// The safetensors format (8-byte little-endian header length, JSON header, raw data), memory-mapped.
#pragma once

#include <torch/torch.h>

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "io/tensor_file.h"

namespace moga {

// An open file. Throws Error (file, what was found, what was expected) on anything malformed: truncation,
// header length beyond the file or 100 MB, bad JSON, overlapping or overflowing ranges, duplicate names,
// sizes that do not match dtype and shape, unknown dtypes.
class SafetensorsFile : public TensorFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const override { return path_; }
  const char* format() const override { return "safetensors"; }
  const std::map<std::string, TensorInfo>& tensors() const override { return tensors_; }
  const std::map<std::string, std::string>& metadata() const override { return metadata_; }
  bool contains(const std::string& name) const { return tensors_.count(name) != 0; }
  // Copied in pieces, and the pages of the mapping are given back behind each, so that reading a whole file
  // takes no more memory than its tensors. float8 (E4M3, E5M2) becomes bfloat16, which holds it exactly.
  torch::Tensor read(const std::string& name,
                     std::optional<torch::ScalarType> dtype = std::nullopt) const override;
  std::map<std::string, torch::Tensor> read_all() const;

 private:
  struct Mapping;
  std::filesystem::path path_;
  std::shared_ptr<const Mapping> mapping_;
  std::map<std::string, TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
};

struct TensorToWrite {
  std::string name;
  torch::ScalarType dtype;
  std::vector<int64_t> shape;
};
// Writes atomically; header padded with spaces to 8 bytes, tensors ordered by element size (largest first),
// then name, so that each is naturally aligned. `tensor` is asked for one tensor after the other, in that
// order, and nothing is kept: files larger than memory can be written. Throws Error if one is not as
// announced.
void write_safetensors(const std::filesystem::path& path, std::vector<TensorToWrite> tensors,
                       const std::function<torch::Tensor(const std::string&)>& tensor,
                       const std::map<std::string, std::string>& metadata = {});

// The same for tensors in memory; they are moved to the CPU and made contiguous.
void write_safetensors(const std::filesystem::path& path, const std::map<std::string, torch::Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace moga
