// Lines of text in a picture, by tesseract. Internal to src/data: the only code that knows tesseract.
#pragma once

#include <memory>
#include <opencv2/core.hpp>
#include <string>
#include <vector>

namespace moga {

struct TextLine {
  cv::Rect box;  // pixels of the picture given
  std::string text;
  double confidence = 0;  // 0 to 1: mean over the words, weighted by their length
};

class TextReader {
 public:
  // Throws Error if tesseract or its English data is missing, with what to install.
  TextReader();
  ~TextReader();

  // Horizontal lines of light or dark text on any background, in a CV_8UC1 picture. Words below
  // `least_confidence` and lines of fewer than three letters or digits are left out.
  std::vector<TextLine> read(const cv::Mat& grey, double least_confidence);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moga
