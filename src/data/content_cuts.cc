#include "data/content_cuts.h"

#include <algorithm>
#include <cmath>
#include <opencv2/imgproc.hpp>

namespace moga {
namespace {

// Grey levels of change that a cut has at least, and how many times the usual change.
constexpr double kLeastChange = 2.5;
constexpr double kTimesUsual = 3;

cv::Mat edges_of(const cv::Mat& rgb) {
  cv::Mat grey;
  cv::cvtColor(rgb, grey, cv::COLOR_RGB2GRAY);
  cv::Mat across;
  cv::Mat down;
  cv::Sobel(grey, across, CV_16S, 1, 0, 3, 0.25);
  cv::Sobel(grey, down, CV_16S, 0, 1, 3, 0.25);
  cv::Mat edges;
  cv::add(cv::abs(across), cv::abs(down), edges, cv::noArray(), CV_8U);
  // Edges a pixel off are the same edges.
  cv::blur(edges, edges, {3, 3});
  return edges;
}

double mean_difference(const cv::Mat& a, const cv::Mat& b) {
  return cv::norm(a, b, cv::NORM_L1) / static_cast<double>(a.total() * static_cast<size_t>(a.channels()));
}

}  // namespace

void ContentCuts::add(const cv::Mat& rgb) {
  cv::Mat colours;
  cv::resize(rgb, colours, {32, 18}, 0, 0, cv::INTER_AREA);
  const cv::Mat edges = edges_of(rgb);
  double change = 0;
  if (count_ > 0) {
    change = mean_difference(colours, last_colours_) + mean_difference(edges, last_edges_);
  }
  changes_[static_cast<size_t>(count_ % kKept)] = change;
  last_colours_ = colours;
  last_edges_ = edges;
  ++count_;
}

bool ContentCuts::is_cut(int64_t frame) const {
  const double own = change(frame);
  if (frame < 1 || own < kLeastChange) {
    return false;
  }
  double sum = 0;
  double largest = 0;
  int64_t number = 0;
  for (int64_t t = std::max<int64_t>({1, frame - kReach, count_ - kKept});
       t <= std::min(count_ - 1, frame + kReach); ++t) {
    if (t != frame) {
      sum += change(t);
      largest = std::max(largest, change(t));
      ++number;
    }
  }
  // A neighbouring cut must not hide this one: the largest of the others does not count.
  const double usual = number > 1 ? (sum - largest) / static_cast<double>(number - 1) : 0;
  const bool peak = (frame + 1 >= count_ || own > change(frame + 1)) && own >= change(frame - 1);
  return peak && own >= kTimesUsual * usual;
}

}  // namespace moga
