// How stages look at a video: scaled so that what is inside its black borders has the width that scores are
// made for.
#pragma once

#include "media/video.h"
#include "prepare/manifest.h"

namespace moga {

class ScoreView {
 public:
  // `content` lies inside width x height, the video's own size.
  ScoreView(int64_t width, int64_t height, const PixelBox& content);
  ReadOptions options(int threads) const;
  // The part of a picture of that size that scores are made of; kScoreWidth wide.
  cv::Mat crop(const cv::Mat& picture) const { return picture(part_); }

 private:
  int64_t width_;
  int64_t height_;
  cv::Rect part_;
};

}  // namespace moga
