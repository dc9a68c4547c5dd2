// PyTorch state dicts (.pth, .pt, .bin): a zip archive of raw storages and a pickle. The archive is read by
// libtorch; the pickle by state_pickle.h, which runs nothing.
#pragma once

#include <memory>

#include "io/state_pickle.h"
#include "io/tensor_file.h"

namespace moga {

// Throws Error on damage, on TorchScript archives, and on pickles with anything but tensors in them.
class TorchFile : public TensorFile {
 public:
  explicit TorchFile(const std::filesystem::path& path);
  ~TorchFile() override;

  const std::filesystem::path& path() const override { return path_; }
  const char* format() const override { return "PyTorch state dict"; }
  const std::map<std::string, TensorInfo>& tensors() const override { return tensors_; }
  // Reads one storage; without a conversion the tensor owns its bytes, so nothing is held twice.
  torch::Tensor read(const std::string& name, std::optional<torch::ScalarType> dtype) const override;

 private:
  struct Archive;
  std::filesystem::path path_;
  std::unique_ptr<Archive> archive_;
  std::map<std::string, TensorInfo> tensors_;
  std::map<std::string, PickledTensor> pickled_;
};

}  // namespace moga
