// libmoga_onnx.so: the only code that links OpenCV's dnn (see data/onnx_network.h).
#include <algorithm>
#include <opencv2/core/utils/logger.hpp>
#include <opencv2/dnn.hpp>

#include "data/onnx_network.h"

namespace moga {
namespace {

// One line of what OpenCV says.
std::string message(const cv::Exception& error) {
  std::string text = error.err;
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text.empty() ? "unknown error" : text;
}

// OpenCV prints errors on stderr before it throws them, unless somebody else takes them; dnn logs them
// besides.
int keep_quiet(int, const char*, const char*, const char*, int, void*) {
  return 0;
}

class Quiet {
 public:
  Quiet()
      : last_(cv::redirectError(keep_quiet)),
        level_(cv::utils::logging::setLogLevel(cv::utils::logging::LOG_LEVEL_SILENT)) {}
  ~Quiet() {
    cv::redirectError(last_);
    cv::utils::logging::setLogLevel(level_);
  }
  Quiet(const Quiet&) = delete;
  Quiet& operator=(const Quiet&) = delete;

 private:
  cv::ErrorCallback last_;
  cv::utils::logging::LogLevel level_;
};

class Model : public OnnxModel {
 public:
  explicit Model(const cv::dnn::Net& net) : net_(net) {}
  std::string run(const cv::Mat& input, const std::string& output, cv::Mat* result) override {
    const Quiet quiet;
    try {
      net_.setInput(input);
      *result = net_.forward(output).clone();
      return "";
    } catch (const cv::Exception& error) {
      return message(error);
    }
  }
  std::vector<std::string> outputs() const override { return net_.getUnconnectedOutLayersNames(); }

 private:
  cv::dnn::Net net_;
};

class Api : public OnnxApi {
 public:
  std::unique_ptr<OnnxModel> load(const std::string& path, std::string* error) const override {
    const Quiet quiet;
    try {
      cv::dnn::Net net = cv::dnn::readNetFromONNX(path);
      if (net.empty()) {
        *error = "it holds no layers";
        return nullptr;
      }
      return std::make_unique<Model>(std::move(net));
    } catch (const cv::Exception& exception) {
      *error = message(exception);
      return nullptr;
    }
  }
};

}  // namespace
}  // namespace moga

extern "C" __attribute__((visibility("default"))) const moga::OnnxApi* moga_onnx_api() {
  static const moga::Api api;
  return &api;
}
