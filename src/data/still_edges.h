// Edges that stay in their place while the scene moves: logos and other marks on a film. Internal to
// src/data.
#pragma once

#include <cstdint>
#include <opencv2/core.hpp>
#include <vector>

namespace moga {

struct StillRegion {
  cv::Rect box;          // pixels of the frames given
  double stillness = 0;  // 0 to 1: mean length of its edges' mean direction
};

class StillEdges {
 public:
  // CV_8UC1, all of one size. Memory: two floats a pixel at a width of at most 640.
  void add(const cv::Mat& grey);
  // Groups of edges with the same direction in at least `share` of the frames. None where fewer than five
  // frames were seen or the scene itself stands still, for then nothing tells a mark from a thing.
  std::vector<StillRegion> regions(double share) const;

 private:
  cv::Size size_;
  cv::Mat across_;  // sums of unit vectors along the gradient, CV_32F
  cv::Mat down_;
  cv::Mat strong_;  // shares of strong edges in parts of the picture, summed over the frames
  int64_t frames_ = 0;
};

}  // namespace moga
