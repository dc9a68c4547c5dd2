// Named tensors on disk, none of them read yet: what every checkpoint format has in common.
#pragma once

#include <torch/torch.h>

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace moga {

struct TensorInfo {
  torch::ScalarType dtype;  // what read() gives without a wish
  std::vector<int64_t> shape;
  std::string stored;  // the dtype as the file names it: "BF16", "F8_E4M3"
  size_t bytes = 0;    // in the file
  size_t begin = 0;    // where its data begins, counted as the format does

  int64_t numel() const;
};

class TensorFile {
 public:
  virtual ~TensorFile() = default;
  virtual const std::filesystem::path& path() const = 0;
  virtual const std::map<std::string, TensorInfo>& tensors() const = 0;
  virtual const char* format() const = 0;  // "safetensors", ...
  // A copy on the CPU, converted to `dtype` if one is given. Throws Error if the name is unknown.
  virtual torch::Tensor read(const std::string& name, std::optional<torch::ScalarType> dtype) const = 0;
  // Free text that the file carries; empty in most formats.
  virtual const std::map<std::string, std::string>& metadata() const;

 protected:
  // The entry of `name`; throws Error with the nearest known name if there is none.
  const TensorInfo& info_of(const std::string& name) const;
};

// A safetensors file or a PyTorch state dict, told apart by their first bytes. Throws Error if it is neither.
std::unique_ptr<TensorFile> open_tensor_file(const std::filesystem::path& path);

}  // namespace moga
