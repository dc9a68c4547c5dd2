// The detector of sudden changes of content: colours and edges of neighbouring frames, against their usual
// change in a window around. Internal to src/data. The idea is that of PySceneDetect's adaptive detector.
#pragma once

#include <cstdint>
#include <opencv2/core.hpp>
#include <vector>

namespace moga {

class ContentCuts {
 public:
  static constexpr int64_t kReach = 8;  // frames on either side that tell the usual change
  static constexpr int64_t kKept = 256;

  // CV_8UC3 RGB, all of one small size.
  void add(const cv::Mat& rgb);
  // Whether `frame` is unlike the frame before; up to kReach frames after it must be known, unless the film
  // ends. Not more than kKept - kReach frames back.
  bool is_cut(int64_t frame) const;

 private:
  double change(int64_t frame) const { return changes_[static_cast<size_t>(frame % kKept)]; }

  std::vector<double> changes_ = std::vector<double>(static_cast<size_t>(kKept));
  int64_t count_ = 0;
  cv::Mat last_colours_;
  cv::Mat last_edges_;
};

}  // namespace moga
