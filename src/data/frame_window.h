// The last frames of a film, small, and how much they differ from each other. All that the shot detectors
// know. Internal to src/data.
#pragma once

#include <cstdint>
#include <opencv2/core.hpp>
#include <unordered_map>
#include <vector>

namespace moga {

class FrameWindow {
 public:
  // Frames farther apart are never compared.
  static constexpr int64_t kReach = 72;
  // Frames that are kept: transitions are looked at when they are as far back as a neighbour may still
  // matter.
  static constexpr int64_t kKept = 208;

  // CV_8UC3 RGB, kShotFrameWidth x kShotFrameHeight.
  void add(const cv::Mat& rgb);

  int64_t count() const { return count_; }  // frames added so far
  int64_t oldest() const;                   // first frame that is kept
  bool has(int64_t frame) const { return frame >= oldest() && frame < count_; }

  // Mean squared difference of colour (grey levels squared) between two frames at most kReach apart, on a 32
  // x 18 grid of means, where noise and small motion hardly show.
  double distance(int64_t a, int64_t b) const;
  // Standard deviation of brightness and its mean in the middle of the frame (inside bars and above
  // subtitles).
  double contrast(int64_t frame) const { return at(frame).contrast; }
  double brightness(int64_t frame) const { return at(frame).brightness; }
  // Mean squared step of luma between neighbouring points there. A mixture of two pictures has less of it
  // than either.
  double detail(int64_t frame) const { return at(frame).detail; }
  // Squared difference to the frame before, summed over the first n columns (rows) of the 32 x 18 grid, for
  // n = 0, 1, ..., all; 0 in the film's first frame.
  const std::vector<float>& column_steps(int64_t frame) const { return at(frame).column_steps; }
  const std::vector<float>& row_steps(int64_t frame) const { return at(frame).row_steps; }
  // Nothing to see: next to no contrast, by itself and against the frames around (a dark scene is not plain).
  bool is_plain(int64_t frame) const;
  // Which part of frame b cannot be explained by parts of frame a that have moved: 0 all is found again,
  // about 1 unrelated. Squared differences of blocks at their best displacement, against the blocks' own
  // contrast. With `any_light`, blocks may have become lighter or darker.
  double novelty(int64_t a, int64_t b, bool any_light = false) const;
  // 32 x 18 means, CV_8UC3.
  const cv::Mat& colours(int64_t frame) const { return at(frame).colours; }
  // Squared difference of colour in each cell of the 32 x 18 grid, row by row.
  std::vector<double> cell_differences(int64_t a, int64_t b) const;

 private:
  struct Frame {
    cv::Mat colours;  // 32 x 18, CV_8UC3
    cv::Mat luma;     // 64 x 36, CV_8UC1
    double contrast = 0;
    double brightness = 0;
    double detail = 0;
    std::vector<float> column_steps;
    std::vector<float> row_steps;
    std::vector<float> distances;  // [k]: to the frame k + 1 before
  };
  const Frame& at(int64_t frame) const { return frames_[static_cast<size_t>(frame % kKept)]; }

  std::vector<Frame> frames_{static_cast<size_t>(kKept)};
  int64_t count_ = 0;
  mutable std::unordered_map<int64_t, double> novelties_;  // of pairs asked before
};

}  // namespace moga
