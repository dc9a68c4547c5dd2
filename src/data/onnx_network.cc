#include "data/onnx_network.h"

#include "base/error.h"
#include "base/module.h"

namespace moga {

OnnxNetwork::OnnxNetwork(const std::filesystem::path& path) : path_(path.string()) {
  MOGA_CHECK(std::filesystem::is_regular_file(path), "no such file: {}", path_);
  static const auto* api = static_cast<const OnnxApi*>(load_module("libmoga_onnx.so", "moga_onnx_api"));
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
