// Shot boundaries from a learned detector in an ONNX file. Internal to src/data.
//
// What TransNetV2 and AutoShot agree on: frames of 48 x 27 pixels, RGB 0 to 255 in float32, 100 at a time, as
// [1, 100, 27, 48, 3] (or [1, 3, 100, 27, 48]); an output of 100 logits that is high where a frame is the
// last of its shot, and perhaps a second one that is high in all frames of a transition. Of each 100 frames
// the middle 50 are believed.
#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <opencv2/core.hpp>
#include <vector>

#include "data/frame_window.h"
#include "data/onnx_network.h"
#include "data/shots.h"

namespace moga {

class ShotNetwork {
 public:
  // Throws Error if the file cannot be read.
  explicit ShotNetwork(const std::filesystem::path& path);

  // CV_8UC3 RGB of any size. Throws Error if the network does not fit what is said above.
  void add(const cv::Mat& rgb);
  // Boundaries that no later frame can change; all of them if the film has ended. `window` has seen the same
  // frames.
  std::vector<ShotBoundary> take(const FrameWindow& window, bool ended);

 private:
  void run();
  std::vector<float> answers(const std::string& output) const;

  OnnxNetwork network_;
  bool channels_first_ = false;
  cv::Mat input_;
  std::deque<cv::Mat> frames_;  // waiting, from frame believed_ - 25 on
  int64_t count_ = 0;
  int64_t believed_ = 0;                         // frames with an answer
  std::deque<std::pair<float, float>> answers_;  // not yet followed: probabilities of both outputs
  int64_t followed_ = 0;
  // The run of high answers that is open.
  int64_t run_begin_ = -1;
  int64_t peak_ = -1;
  float peak_value_ = 0;
};

}  // namespace moga
