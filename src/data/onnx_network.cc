#include "data/onnx_network.h"

#include <dlfcn.h>

#include "base/error.h"

namespace moga {

static const OnnxApi* load_onnx_module() {
  int flags = RTLD_NOW | RTLD_LOCAL;
#ifndef __SANITIZE_ADDRESS__
  flags |= RTLD_DEEPBIND;  // its own protobuf before libtorch's; AddressSanitizer refuses this flag
#endif
  void* module = dlopen("libmoga_onnx.so", flags);
  MOGA_CHECK(module != nullptr, "cannot load libmoga_onnx.so, which is built beside the program: {}",
             dlerror());
  using GetApi = const OnnxApi* (*)();
  auto* get = reinterpret_cast<GetApi>(dlsym(module, "moga_onnx_api"));
  MOGA_CHECK(get != nullptr, "libmoga_onnx.so is of another version: {}", dlerror());
  return get();
}

OnnxNetwork::OnnxNetwork(const std::filesystem::path& path) : path_(path.string()) {
  MOGA_CHECK(std::filesystem::is_regular_file(path), "no such file: {}", path_);
  static const OnnxApi* api = load_onnx_module();
  std::string error;
  model_ = api->load(path_, &error);
  MOGA_CHECK(model_ != nullptr, "{}: OpenCV cannot read it as an ONNX network: {}", path_, error);
}

cv::Mat OnnxNetwork::run(const cv::Mat& input, const std::string& output) const {
  cv::Mat result;
  const std::string error = model_->run(input, output, &result);
  MOGA_CHECK(error.empty(), "{}: the network does not work on this input: {}", path_, error);
  return result;
}

}  // namespace moga
