// Networks from ONNX files, run by OpenCV's dnn module on the CPU.
//
// dnn is loaded at run time from libmoga_onnx.so, apart from libtorch: it brings a protobuf library that some
// builds of libtorch carry in another version.
#pragma once

#include <filesystem>
#include <memory>
#include <opencv2/core.hpp>
#include <string>
#include <vector>

namespace moga {

// Internal: what the loaded module offers. Errors come back as text, empty if all went well.
class OnnxModel {
 public:
  virtual ~OnnxModel() = default;
  virtual std::string run(const cv::Mat& input, const std::string& output, cv::Mat* result) = 0;
  virtual std::vector<std::string> outputs() const = 0;
};
class OnnxApi {
 public:
  virtual ~OnnxApi() = default;
  virtual std::unique_ptr<OnnxModel> load(const std::string& path, std::string* error) const = 0;
};

class OnnxNetwork {
 public:
  // Throws Error if the file is missing or OpenCV cannot read it (some operations are not known to it).
  explicit OnnxNetwork(const std::filesystem::path& path);

  // One pass. `input`: CV_32F of any number of dimensions; `output`: name of the output wanted (empty: the
  // last). Throws Error if the network does not fit the input.
  cv::Mat run(const cv::Mat& input, const std::string& output = "") const;
  // Names of the outputs, in the file's order.
  std::vector<std::string> outputs() const { return model_->outputs(); }

 private:
  std::string path_;
  std::unique_ptr<OnnxModel> model_;
};

}  // namespace moga
