#include "data/frame_window.h"

#include <algorithm>
#include <cmath>
#include <opencv2/imgproc.hpp>

namespace moga {
namespace {

const cv::Size kColours(32, 18);
const cv::Size kLuma(64, 36);
// Blocks of the luma picture and how far they are looked for.
constexpr int kBlockWidth = 16;
constexpr int kBlockHeight = 12;
constexpr int kReachX = 20;
constexpr int kReachY = 10;
// Squared grey levels a pixel that count as nothing: rounding and coding noise.
constexpr double kCodingNoise = 4;

}  // namespace

int64_t FrameWindow::oldest() const {
  return std::max<int64_t>(0, count_ - kKept);
}

void FrameWindow::add(const cv::Mat& rgb) {
  Frame& frame = frames_[static_cast<size_t>(count_ % kKept)];
  cv::resize(rgb, frame.colours, kColours, 0, 0, cv::INTER_AREA);
  cv::Mat half;
  cv::resize(rgb, half, kLuma, 0, 0, cv::INTER_AREA);
  cv::cvtColor(half, frame.luma, cv::COLOR_RGB2GRAY);
  const cv::Rect inside(kColours.width / 16, kColours.height / 5, kColours.width * 7 / 8,
                        kColours.height * 3 / 5);
  cv::Scalar mean;
  cv::Scalar deviation;
  cv::meanStdDev(frame.colours(inside), mean, deviation);
  frame.contrast = (deviation[0] + deviation[1] + deviation[2]) / 3;
  frame.brightness = (mean[0] + mean[1] + mean[2]) / 3;
  const int64_t reach = std::min(kReach, count_);
  frame.distances.resize(static_cast<size_t>(reach));
  const double scale = 1.0 / static_cast<double>(frame.colours.total() * 3);
  for (int64_t k = 1; k <= reach; ++k) {
    frame.distances[static_cast<size_t>(k - 1)] =
        static_cast<float>(cv::norm(frame.colours, at(count_ - k).colours, cv::NORM_L2SQR) * scale);
  }
  ++count_;
  if (novelties_.size() > 4096) {
    novelties_.clear();
  }
}

bool FrameWindow::is_plain(int64_t frame) const {
  constexpr int64_t kAround = 46;
  double most = 0;
  for (int64_t j = std::max(oldest(), frame - kAround); j <= std::min(count_ - 1, frame + kAround); ++j) {
    most = std::max(most, contrast(j));
  }
  return contrast(frame) < std::clamp(0.06 * most, 0.7, 2.5);
}

double FrameWindow::distance(int64_t a, int64_t b) const {
  if (a == b) {
    return 0;
  }
  const auto [low, high] = std::minmax(a, b);
  return at(high).distances.at(static_cast<size_t>(high - low - 1));
}

double FrameWindow::novelty(int64_t a, int64_t b, bool any_light) const {
  const int64_t key = (a * kKept + b % kKept) * 2 + (any_light ? 1 : 0);
  const auto [entry, fresh] = novelties_.try_emplace(key, 0);
  if (!fresh) {
    return entry->second;
  }
  const cv::Mat& from = at(a).luma;
  const cv::Mat& to = at(b).luma;
  double unexplained = 0;
  double energy = 0;
  cv::Mat costs;
  for (int y = 0; y + kBlockHeight <= kLuma.height; y += kBlockHeight) {
    for (int x = 0; x + kBlockWidth <= kLuma.width; x += kBlockWidth) {
      const cv::Rect place(x, y, kBlockWidth, kBlockHeight);
      const cv::Mat block = to(place);
      const cv::Rect area =
          cv::Rect(x - kReachX, y - kReachY, kBlockWidth + 2 * kReachX, kBlockHeight + 2 * kReachY) &
          cv::Rect({}, kLuma);
      cv::Scalar mean;
      cv::Scalar deviation;
      cv::meanStdDev(block, mean, deviation);
      cv::Scalar other_mean;
      cv::Scalar other_deviation;
      cv::meanStdDev(from(place), other_mean, other_deviation);
      const double own = deviation[0] * deviation[0];
      const double other = other_deviation[0] * other_deviation[0];
      const double pixels = place.area();
      double least = 0;
      if (any_light) {
        // What of the block's pattern is not found, whatever its brightness and contrast.
        cv::matchTemplate(from(area), block, costs, cv::TM_CCOEFF_NORMED);
        double best = 0;
        cv::minMaxLoc(costs, nullptr, &best);
        best = std::clamp(best, 0.0, 1.0);
        least = own < kCodingNoise ? 0 : (1 - best * best) * own * pixels;
        energy += own * pixels;
        unexplained += least;
        continue;
      }
      cv::matchTemplate(from(area), block, costs, cv::TM_SQDIFF);
      cv::minMaxLoc(costs, &least);
      unexplained += std::max(0.0, least - kCodingNoise * pixels);
      energy += std::max(own, other) * pixels;
    }
  }
  energy += kCodingNoise * static_cast<double>(kLuma.area());
  entry->second = unexplained / energy;
  return entry->second;
}

}  // namespace moga
