#include "io/tensor_file.h"

#include <cerrno>
#include <cstring>
#include <fstream>

#include "base/error.h"
#include "base/text_util.h"
#include "io/safetensors.h"
#include "io/torch_file.h"

namespace moga {

int64_t TensorInfo::numel() const {
  int64_t count = 1;
  for (const int64_t size : shape) {
    count *= size;  // files are checked for overflow when they are opened
  }
  return count;
}

const std::map<std::string, std::string>& TensorFile::metadata() const {
  static const std::map<std::string, std::string> kNone;
  return kNone;
}

const TensorInfo& TensorFile::info_of(const std::string& name) const {
  const auto found = tensors().find(name);
  if (found == tensors().end()) {
    std::vector<std::string> names;
    for (const auto& entry : tensors()) {
      names.push_back(entry.first);
    }
    const auto near = nearest_word(name, names);
    fail("{}: no tensor '{}' among its {}{}", path().string(), name, names.size(),
         near ? ", did you mean '" + *near + "'?" : "");
  }
  return found->second;
}

std::unique_ptr<TensorFile> open_tensor_file(const std::filesystem::path& path) {
  std::error_code ignored;
  if (std::filesystem::is_regular_file(path, ignored)) {  // the readers say what else it is
    std::ifstream stream(path, std::ios::binary);
    MOGA_CHECK(stream.good(), "cannot open {}: {}", path.string(), std::strerror(errno));
    std::array<char, 4> start{};
    stream.read(start.data(), start.size());
    const std::string_view bytes(start.data(), static_cast<size_t>(stream.gcount()));
    if (bytes == "PK\3\4") {
      return std::make_unique<TorchFile>(path);
    }
    // Protocol 2 and up; a safetensors file would need a header of 128 bytes and 13 million to begin like
    // this.
    MOGA_CHECK(
        bytes.size() < 2 || bytes[0] != '\x80' || bytes[1] < 2 || bytes[1] > 5 || bytes[2] != '\x8a',
        "{}: a pickle in PyTorch's form from before 1.6 is not read; load it with PyTorch and save it again",
        path.string());
  }
  return std::make_unique<SafetensorsFile>(path);
}

}  // namespace moga
