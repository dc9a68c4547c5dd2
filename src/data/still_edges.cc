#include "data/still_edges.h"

#include <algorithm>
#include <cmath>
#include <opencv2/imgproc.hpp>

#include "base/error.h"

namespace moga {
namespace {

constexpr int kEdgeWidth = 640;
constexpr int64_t kFewestFrames = 5;
// Smallest gradient of an edge, in grey levels over a pixel (Sobel's sum is 8 times that).
constexpr float kLeastGradient = 8 * 6;
// The scene stands still if edges do so in more than this share of the parts of the picture that have edges.
constexpr double kStillScene = 0.4;
constexpr int kParts = 8;  // across and down

// Shares of a mask's pixels in the parts of the picture.
cv::Mat parts_of(const cv::Mat& mask) {
  cv::Mat shares;
  cv::resize(mask, shares, {kParts, kParts}, 0, 0, cv::INTER_AREA);
  return shares;
}

}  // namespace

void StillEdges::add(const cv::Mat& grey) {
  MOGA_CHECK(!grey.empty() && grey.type() == CV_8UC1 && (frames_ == 0 || grey.size() == size_),
             "still edges: expected grey frames of one size");
  size_ = grey.size();
  cv::Mat small = grey;
  if (grey.cols > kEdgeWidth) {
    const double scale = static_cast<double>(kEdgeWidth) / grey.cols;
    cv::resize(grey, small, {kEdgeWidth, std::max(1, static_cast<int>(std::lround(grey.rows * scale)))}, 0, 0,
               cv::INTER_AREA);
  }
  cv::Mat across;
  cv::Mat down;
  cv::Sobel(small, across, CV_32F, 1, 0);
  cv::Sobel(small, down, CV_32F, 0, 1);
  cv::Mat length;
  cv::magnitude(across, down, length);
  const cv::Mat weak = length < kLeastGradient;
  cv::divide(across, length, across);
  cv::divide(down, length, down);
  across.setTo(0, weak);
  down.setTo(0, weak);
  if (frames_ == 0) {
    across_ = cv::Mat::zeros(small.size(), CV_32F);
    down_ = cv::Mat::zeros(small.size(), CV_32F);
    strong_ = cv::Mat::zeros(kParts, kParts, CV_32F);
  }
  across_ += across;
  down_ += down;
  cv::Mat strong;
  cv::Mat(1 - weak / 255).convertTo(strong, CV_32F);
  strong_ += parts_of(strong);
  ++frames_;
}

std::vector<StillRegion> StillEdges::regions(double share) const {
  std::vector<StillRegion> found;
  if (frames_ < kFewestFrames) {
    return found;
  }
  cv::Mat stillness;
  cv::magnitude(across_, down_, stillness);
  stillness /= static_cast<double>(frames_);
  const cv::Mat still = stillness >= share;
  cv::Mat still_share;
  still.convertTo(still_share, CV_32F, 1.0 / 255);
  still_share = parts_of(still_share);
  const cv::Mat strong_share = strong_ / static_cast<double>(frames_);
  constexpr double kSomeEdges = 0.004;
  const cv::Mat with_edges = strong_share > kSomeEdges;
  const cv::Mat with_still = with_edges & (still_share > 0.1 * strong_share);
  if (cv::countNonZero(with_still) > kStillScene * cv::countNonZero(with_edges)) {
    return found;
  }
  // The letters of a word are one mark.
  const int gap = std::max(3, still.cols / 48);
  cv::Mat joined;
  cv::morphologyEx(still, joined, cv::MORPH_CLOSE,
                   cv::getStructuringElement(cv::MORPH_RECT, {gap, gap / 2 + 1}), {-1, -1}, 1,
                   cv::BORDER_CONSTANT, cv::Scalar(0));
  cv::Mat labels;
  cv::Mat stats;
  cv::Mat centres;
  const int count = cv::connectedComponentsWithStats(joined, labels, stats, centres);
  const double scale = static_cast<double>(size_.width) / still.cols;
  for (int i = 1; i < count; ++i) {
    const cv::Rect box(stats.at<int>(i, cv::CC_STAT_LEFT), stats.at<int>(i, cv::CC_STAT_TOP),
                       stats.at<int>(i, cv::CC_STAT_WIDTH), stats.at<int>(i, cv::CC_STAT_HEIGHT));
    const int edges = cv::countNonZero(still(box));
    // Dust is no mark; a line along the frame's side is a border; half the frame is the scene.
    const bool line =
        (box.width > still.cols / 2 && box.height < 6) || (box.height > still.rows / 2 && box.width < 6);
    if (edges < 24 || std::min(box.width, box.height) < 5 || line || box.area() * 4 > still.size().area()) {
      continue;
    }
    const auto back = [&](int value) { return static_cast<int>(std::lround(value * scale)); };
    StillRegion region;
    region.box = cv::Rect(back(box.x), back(box.y), back(box.width), back(box.height)) & cv::Rect({}, size_);
    region.stillness = cv::mean(stillness(box), still(box))[0];
    found.push_back(region);
  }
  return found;
}

}  // namespace moga
