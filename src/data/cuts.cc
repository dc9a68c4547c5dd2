#include "data/cuts.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <opencv2/imgproc.hpp>

#include "base/error.h"

namespace moga {
namespace {

constexpr int kGridWidth = 16;
constexpr int kGridHeight = 10;

double median(std::vector<double> values) {
  if (values.empty()) {
    return 0;
  }
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

CutDetector::CutDetector(const CutSettings& settings) : settings_(settings) {
  MOGA_CHECK(
      std::isfinite(settings.least_change) && settings.least_change >= 0 && std::isfinite(settings.ratio) &&
          settings.ratio >= 0 && settings.reach >= 0 && settings.least_gap >= 0,
      "cut detector: expected finite settings of 0 or more, found least_change {}, ratio {}, reach {}, "
      "least_gap {}",
      settings.least_change, settings.ratio, settings.reach, settings.least_gap);
}

void CutDetector::add(const cv::Mat& rgb) {
  MOGA_CHECK(!rgb.empty() && rgb.type() == CV_8UC3,
             "cut detector: expected 8-bit RGB, found {} channels of depth {}", rgb.channels(), rgb.depth());
  // Means over areas see no noise and little motion, but any change of scenery.
  cv::Mat means;
  cv::resize(rgb, means, {kGridWidth, kGridHeight}, 0, 0, cv::INTER_AREA);
  double change = 0;
  for (int i = 0; i < kGridWidth * kGridHeight * 3; ++i) {
    const double value = means.ptr<uint8_t>()[i];
    change += std::abs(value - grid_.at(static_cast<size_t>(i)));
    grid_.at(static_cast<size_t>(i)) = value;
  }
  if (frames_ > 0) {
    changes_.push_back(change / static_cast<double>(grid_.size()));
  }
  ++frames_;
}

std::vector<int64_t> CutDetector::cuts() const {
  const auto count = static_cast<int64_t>(changes_.size());
  const auto change_at = [&](int64_t i) { return changes_[static_cast<size_t>(i)]; };
  std::vector<int64_t> cuts;
  for (int64_t i = 0; i < count; ++i) {
    if (change_at(i) < settings_.least_change) {
      continue;
    }
    std::vector<double> around;
    bool strongest = true;
    for (int64_t j = std::max<int64_t>(0, i - settings_.reach); j < std::min(count, i + settings_.reach + 1);
         ++j) {
      if (j != i) {
        around.push_back(change_at(j));
      }
    }
    for (int64_t j = std::max<int64_t>(0, i - settings_.least_gap + 1);
         j < std::min(count, i + settings_.least_gap); ++j) {
      // Of equals the first wins.
      strongest = strongest && (change_at(j) < change_at(i) || (change_at(j) == change_at(i) && j >= i));
    }
    if (strongest && change_at(i) >= settings_.ratio * median(std::move(around))) {
      cuts.push_back(i + 1);
    }
  }
  return cuts;
}

std::vector<int64_t> detect_cuts(const std::vector<cv::Mat>& frames, const CutSettings& settings) {
  CutDetector detector(settings);
  for (const cv::Mat& frame : frames) {
    detector.add(frame);
  }
  return detector.cuts();
}

CutScore score_cuts(const std::vector<int64_t>& found, const std::vector<int64_t>& expected,
                    int64_t tolerance) {
  CutScore score{static_cast<int64_t>(expected.size()), static_cast<int64_t>(found.size()), 0};
  // In ascending order, pairing the earliest that fit gives the most pairs.
  size_t f = 0;
  size_t e = 0;
  while (f < found.size() && e < expected.size()) {
    if (std::abs(found[f] - expected[e]) <= tolerance) {
      ++score.matched;
      ++f;
      ++e;
    } else if (found[f] < expected[e]) {
      ++f;
    } else {
      ++e;
    }
  }
  return score;
}

}  // namespace moga
