#include "data/frame_window.h"

#include <algorithm>
#include <cmath>
#include <numeric>
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

// The middle of the frame, inside bars and above subtitles.
cv::Rect middle(const cv::Mat& picture) {
  return {picture.cols / 16, picture.rows / 5, picture.cols * 7 / 8, picture.rows * 3 / 5};
}

double mean_squared_step(const cv::Mat& luma) {
  const cv::Mat here = luma(cv::Rect(0, 0, luma.cols - 1, luma.rows - 1));
  const cv::Mat right = luma(cv::Rect(1, 0, luma.cols - 1, luma.rows - 1));
  const cv::Mat below = luma(cv::Rect(0, 1, luma.cols - 1, luma.rows - 1));
  return (cv::norm(here, right, cv::NORM_L2SQR) + cv::norm(here, below, cv::NORM_L2SQR)) /
         (2.0 * static_cast<double>(here.total()));
}

// Sums over the first columns and rows.
void squared_steps(const cv::Mat& a, const cv::Mat& b, std::vector<float>& columns,
                   std::vector<float>& rows) {
  columns.assign(static_cast<size_t>(a.cols) + 1, 0);
  rows.assign(static_cast<size_t>(a.rows) + 1, 0);
  for (int y = 0; y < a.rows; ++y) {
    const auto* p = a.ptr<cv::Vec3b>(y);
    const auto* q = b.ptr<cv::Vec3b>(y);
    for (int x = 0; x < a.cols; ++x) {
      int sum = 0;
      for (int c = 0; c < 3; ++c) {
        const int difference = p[x][c] - q[x][c];
        sum += difference * difference;
      }
      columns[static_cast<size_t>(x) + 1] += static_cast<float>(sum);
      rows[static_cast<size_t>(y) + 1] += static_cast<float>(sum);
    }
  }
  std::partial_sum(columns.begin(), columns.end(), columns.begin());
  std::partial_sum(rows.begin(), rows.end(), rows.begin());
}

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
  cv::Scalar mean;
  cv::Scalar deviation;
  cv::meanStdDev(frame.colours(middle(frame.colours)), mean, deviation);
  frame.contrast = (deviation[0] + deviation[1] + deviation[2]) / 3;
  frame.brightness = (mean[0] + mean[1] + mean[2]) / 3;
  frame.detail = mean_squared_step(frame.luma(middle(frame.luma)));
  squared_steps(frame.colours, count_ > 0 ? at(count_ - 1).colours : frame.colours, frame.column_steps,
                frame.row_steps);
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

std::vector<double> FrameWindow::cell_differences(int64_t a, int64_t b) const {
  const cv::Mat& first = at(a).colours;
  const cv::Mat& second = at(b).colours;
  std::vector<double> squares(first.total());
  for (size_t i = 0; i < squares.size(); ++i) {
    for (size_t c = 3 * i; c < 3 * i + 3; ++c) {
      const double difference = static_cast<double>(first.data[c]) - second.data[c];
      squares[i] += difference * difference;
    }
  }
  return squares;
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
