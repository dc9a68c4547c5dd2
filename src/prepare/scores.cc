#include "prepare/scores.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <opencv2/imgproc.hpp>

#include "base/error.h"

namespace moga {

namespace {

constexpr int kFlowWidth = 160;
constexpr int kThumbWidth = 96;
constexpr double kStillMotion = 0.5;  // percent of the width a second
constexpr double kSameFrame = 0.1;    // grey levels
constexpr int kClipLow = 4;           // luma
constexpr int kClipHigh = 251;        // luma
constexpr uint8_t kBlack = 24;        // luma of borders at most
constexpr double kFewPixels = 0.02;   // of a border row may be brighter (compression)
constexpr double kFewFrames = 0.02;   // in which a border may be bright (flashes, damage)
constexpr int kHues = 8, kSaturations = 3, kValues = 3;

cv::Mat grey_of(const cv::Mat& rgb) {
  cv::Mat grey;
  cv::cvtColor(rgb, grey, cv::COLOR_RGB2GRAY);
  return grey;
}

cv::Mat scaled_to_width(const cv::Mat& picture, int width) {
  cv::Mat out;
  const int height = std::max(2, picture.rows * width / picture.cols);
  cv::resize(picture, out, {width, height}, 0, 0, cv::INTER_AREA);
  return out;
}

double sharpness_of(const cv::Mat& grey) {
  cv::Mat laplacian;
  cv::Laplacian(grey, laplacian, CV_32F);
  cv::Scalar mean;
  cv::Scalar deviation;
  cv::meanStdDev(laplacian, mean, deviation);
  return deviation[0];
}

// Immerkaer's mask cancels constant and linear structure; its mean absolute answer is proportional to the
// noise.
double noise_of(const cv::Mat& grey) {
  if (grey.rows < 32 || grey.cols < 32) {
    return 0;
  }
  static const cv::Mat mask = (cv::Mat_<float>(3, 3) << 1, -2, 1, -2, 4, -2, 1, -2, 1);
  cv::Mat answer;
  cv::filter2D(grey, answer, CV_32F, mask);
  answer = cv::abs(answer);
  // Mean answers of 16 x 16 blocks; a quarter of them, the calmest, tell the noise. Clipped blocks have none
  // to tell.
  std::vector<double> blocks;
  constexpr int kBlock = 16;
  for (int y = 0; y + kBlock <= grey.rows; y += kBlock) {
    for (int x = 0; x + kBlock <= grey.cols; x += kBlock) {
      const cv::Rect block(x, y, kBlock, kBlock);
      const double level = cv::mean(grey(block))[0];
      if (level > 16 && level < 239) {
        blocks.push_back(cv::mean(answer(block))[0]);
      }
    }
  }
  if (blocks.empty()) {
    return 0;
  }
  const size_t quarter = std::max<size_t>(1, blocks.size() / 4);
  std::nth_element(blocks.begin(), blocks.begin() + static_cast<int64_t>(quarter - 1), blocks.end());
  double sum = 0;
  for (size_t i = 0; i < quarter; ++i) {
    sum += blocks[i];
  }
  constexpr double kScale = 1.2533141373155001 / 6;  // sqrt(pi / 2) / 6
  return kScale * sum / static_cast<double>(quarter);
}

double colourfulness_of(const cv::Mat& rgb) {
  cv::Mat real;
  rgb.convertTo(real, CV_32FC3);
  std::array<cv::Mat, 3> planes;
  cv::split(real, planes.data());
  const cv::Mat rg = planes[0] - planes[1];
  const cv::Mat yb = 0.5 * (planes[0] + planes[1]) - planes[2];
  cv::Scalar rg_mean;
  cv::Scalar rg_deviation;
  cv::Scalar yb_mean;
  cv::Scalar yb_deviation;
  cv::meanStdDev(rg, rg_mean, rg_deviation);
  cv::meanStdDev(yb, yb_mean, yb_deviation);
  return std::hypot(rg_deviation[0], yb_deviation[0]) + 0.3 * std::hypot(rg_mean[0], yb_mean[0]);
}

// Where between its neighbours at -1 and +1 a peak of `middle` lies, by a parabola.
double peak_between(double before, double middle, double after) {
  const double bend = before - 2 * middle + after;
  return bend < 0 ? std::clamp(0.5 * (before - after) / bend, -0.5, 0.5) : 0;
}

// Mean length in pixels by which patches of 16 x 16 moved from one grey picture to the next, at most 8 pixels
// up and down and to the sides, by normalised correlation. Patches without texture have no motion that could
// be told. (Phase correlation of such small windows finds two thirds of what patches moved by.)
double mean_shift(const cv::Mat& from, const cv::Mat& to) {
  constexpr int kPatch = 16;
  constexpr int kReach = 8;
  constexpr double kTexture = 2;  // grey levels, standard deviation
  constexpr double kAlike = 0.5;  // a lesser correlation: the patch shows something else now
  double sum = 0;
  int patches = 0;
  for (int y = kReach; y + kPatch + kReach <= from.rows; y += kPatch) {
    for (int x = kReach; x + kPatch + kReach <= from.cols; x += kPatch) {
      const cv::Rect patch(x, y, kPatch, kPatch);
      cv::Scalar mean;
      cv::Scalar deviation;
      cv::meanStdDev(from(patch), mean, deviation);
      if (deviation[0] < kTexture) {
        continue;
      }
      ++patches;
      if (cv::norm(from(patch), to(patch), cv::NORM_L1) == 0) {
        continue;
      }
      const cv::Rect reach(x - kReach, y - kReach, kPatch + 2 * kReach, kPatch + 2 * kReach);
      cv::Mat alike;
      cv::matchTemplate(to(reach), from(patch), alike, cv::TM_CCOEFF_NORMED);
      double best = 0;
      cv::Point at;
      cv::minMaxLoc(alike, nullptr, &best, nullptr, &at);
      if (best < kAlike) {
        sum += kReach;
        continue;
      }
      double dx = at.x - kReach;
      double dy = at.y - kReach;
      if (at.x > 0 && at.x < 2 * kReach && at.y > 0 && at.y < 2 * kReach) {
        dx += peak_between(alike.at<float>(at.y, at.x - 1), best, alike.at<float>(at.y, at.x + 1));
        dy += peak_between(alike.at<float>(at.y - 1, at.x), best, alike.at<float>(at.y + 1, at.x));
      }
      sum += std::hypot(dx, dy);
    }
  }
  return patches == 0 ? 0 : sum / patches;
}

double mean_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) {
    sum += value;
  }
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

double median_of(std::vector<double> values) {
  if (values.empty()) {
    return 0;
  }
  const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Manifests are read by people and compared between runs: six digits are more than the scores are worth.
double rounded(double value) {
  return std::round(value * 1e6) / 1e6;
}

}  // namespace

int64_t score_height(int64_t width, int64_t height) {
  MOGA_CHECK(width > 0 && height > 0, "expected a picture size, found {}x{}", width, height);
  return std::max<int64_t>(2, (height * kScoreWidth / width + 1) / 2 * 2);
}

struct ScoreMeter::Impl {
  Impl(double samples_a_second, LearnedScorers& scorers) : interval(1 / samples_a_second), learned(scorers) {}

  void add(const cv::Mat& rgb, double seconds) {
    MOGA_CHECK(rgb.type() == CV_8UC3 && rgb.cols == kScoreWidth,
               "scores: expected an RGB picture of width {}", kScoreWidth);
    const cv::Mat grey = grey_of(rgb);
    const cv::Mat thumb = scaled_to_width(grey, kThumbWidth);
    if (!last_thumb.empty()) {
      const double change = cv::norm(thumb, last_thumb, cv::NORM_L1) / static_cast<double>(thumb.total());
      same += change < kSameFrame ? 1 : 0;
    }
    last_thumb = thumb;
    if (!flow_from.empty() && seconds > sampled_at) {
      measure_motion(grey, seconds - sampled_at);
    }
    if (frames == 0 || seconds >= next_sample - 1e-6) {
      sample(rgb, grey);
      sampled_at = seconds;
      next_sample = frames == 0 ? seconds + interval : std::max(next_sample + interval, seconds);
      flow_from = scaled_to_width(grey, kFlowWidth);
    }
    ++frames;
  }

  void measure_motion(const cv::Mat& grey, double passed) {
    const cv::Mat flow_to = scaled_to_width(grey, kFlowWidth);
    motion.push_back(100 * mean_shift(flow_from, flow_to) / kFlowWidth / passed);
    flow_from.release();
  }

  void sample(const cv::Mat& rgb, const cv::Mat& grey) {
    sharpness.push_back(sharpness_of(grey));
    noise.push_back(noise_of(grey));
    colourfulness.push_back(colourfulness_of(rgb));
    cv::Scalar mean;
    cv::Scalar deviation;
    cv::meanStdDev(grey, mean, deviation);
    brightness.push_back(mean[0]);
    contrast.push_back(deviation[0]);
    const auto pixels = static_cast<double>(grey.total());
    clipped_low.push_back(cv::countNonZero(grey <= kClipLow) / pixels);
    clipped_high.push_back(cv::countNonZero(grey >= kClipHigh) / pixels);
    count_colours(rgb);
    const auto values = learned.score(rgb);
    if (network_sums.empty()) {
      network_sums = values;
    } else {
      for (size_t i = 0; i < values.size(); ++i) {
        network_sums[i].value += values[i].value;
      }
    }
  }

  void count_colours(const cv::Mat& rgb) {
    cv::Mat hsv;
    cv::cvtColor(scaled_to_width(rgb, kThumbWidth), hsv, cv::COLOR_RGB2HSV_FULL);
    for (int y = 0; y < hsv.rows; ++y) {
      const auto* row = hsv.ptr<cv::Vec3b>(y);
      for (int x = 0; x < hsv.cols; ++x) {
        const int bin = (row[x][0] * kHues / 256 * kSaturations + row[x][1] * kSaturations / 256) * kValues +
                        row[x][2] * kValues / 256;
        ++colours[static_cast<size_t>(bin)];
      }
    }
  }

  double interval;
  LearnedScorers& learned;
  int64_t frames = 0;
  int64_t same = 0;
  double sampled_at = 0;
  double next_sample = 0;
  cv::Mat last_thumb;
  cv::Mat flow_from;
  std::vector<double> sharpness, noise, colourfulness, brightness, contrast, clipped_low, clipped_high,
      motion;
  std::vector<LearnedScore> network_sums;
  std::array<int64_t, static_cast<size_t>(kHues* kSaturations* kValues)> colours{};
};

ScoreMeter::ScoreMeter(double samples_a_second, LearnedScorers& learned)
    : impl_(std::make_unique<Impl>(samples_a_second, learned)) {}
ScoreMeter::~ScoreMeter() = default;
ScoreMeter::ScoreMeter(ScoreMeter&&) noexcept = default;
ScoreMeter& ScoreMeter::operator=(ScoreMeter&&) noexcept = default;

void ScoreMeter::add(const cv::Mat& rgb, double seconds) {
  impl_->add(rgb, seconds);
}

int64_t ScoreMeter::frames() const {
  return impl_->frames;
}

Scores ScoreMeter::scores() const {
  const Impl& m = *impl_;
  Scores scores;
  scores.sharpness = rounded(median_of(m.sharpness));
  scores.brightness = rounded(mean_of(m.brightness));
  scores.clipped_low = rounded(mean_of(m.clipped_low));
  scores.clipped_high = rounded(mean_of(m.clipped_high));
  scores.contrast = rounded(mean_of(m.contrast));
  scores.colourfulness = rounded(mean_of(m.colourfulness));
  scores.noise = rounded(median_of(m.noise));
  scores.motion = rounded(mean_of(m.motion));
  const auto still =
      std::count_if(m.motion.begin(), m.motion.end(), [](double v) { return v < kStillMotion; });
  scores.still =
      m.motion.empty() ? 0 : rounded(static_cast<double>(still) / static_cast<double>(m.motion.size()));
  scores.duplicates =
      m.frames < 2 ? 0 : rounded(static_cast<double>(m.same) / static_cast<double>(m.frames - 1));
  scores.learned = m.network_sums;
  for (LearnedScore& learned : scores.learned) {
    learned.value = rounded(learned.value / static_cast<double>(m.sharpness.size()));
  }
  return scores;
}

std::vector<int64_t> ScoreMeter::colours() const {
  int64_t total = 0;
  for (const int64_t count : impl_->colours) {
    total += count;
  }
  std::vector<int64_t> shares;
  for (const int64_t count : impl_->colours) {
    shares.push_back(total == 0 ? 0 : (count * 1000 + total / 2) / total);
  }
  return shares;
}

void BorderMeter::add(const cv::Mat& rgb) {
  const cv::Mat grey = grey_of(rgb);
  bright_rows_.resize(static_cast<size_t>(grey.rows));
  bright_columns_.resize(static_cast<size_t>(grey.cols));
  cv::Mat bright = grey > kBlack;
  bright /= 255;
  cv::Mat rows;
  cv::Mat columns;
  cv::reduce(bright, rows, 1, cv::REDUCE_SUM, CV_32S);
  cv::reduce(bright, columns, 0, cv::REDUCE_SUM, CV_32S);
  if (cv::sum(rows)[0] <= kFewPixels * static_cast<double>(grey.total())) {
    return;  // a black frame says nothing about borders
  }
  ++frames_;
  for (int y = 0; y < grey.rows; ++y) {
    bright_rows_[static_cast<size_t>(y)] += rows.at<int>(y) > kFewPixels * grey.cols ? 1 : 0;
  }
  for (int x = 0; x < grey.cols; ++x) {
    bright_columns_[static_cast<size_t>(x)] += columns.at<int>(x) > kFewPixels * grey.rows ? 1 : 0;
  }
}

PixelBox BorderMeter::box(int64_t width, int64_t height) const {
  // Half-open range of lines that hold the picture, in pixels of the whole video.
  const auto range = [&](const std::vector<int64_t>& bright, int64_t side) -> std::pair<int64_t, int64_t> {
    const double few = kFewFrames * static_cast<double>(frames_);
    const auto is_picture = [&](int64_t count) { return static_cast<double>(count) > few; };
    const auto first = std::find_if(bright.begin(), bright.end(), is_picture);
    const auto last = std::find_if(bright.rbegin(), bright.rend(), is_picture);
    if (first == bright.end()) {
      return {0, side};
    }
    const auto lines = static_cast<int64_t>(bright.size());
    const int64_t before = first - bright.begin();
    const int64_t after = last - bright.rbegin();
    // A line of the small picture may hold the border's edge: where there is a border, one line more is given
    // up.
    const int64_t begin = before == 0 ? 0 : ((before + 1) * side + lines - 1) / lines;
    const int64_t end = after == 0 ? side : (lines - after - 1) * side / lines;
    return end - begin >= 2 ? std::pair{begin, end} : std::pair{int64_t{0}, side};
  };
  const auto [top, bottom] = range(bright_rows_, height);
  const auto [left, right] = range(bright_columns_, width);
  return {left, top, right - left, bottom - top};
}

double colour_agreement(const std::vector<int64_t>& a, const std::vector<int64_t>& b) {
  int64_t common = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    common += std::min(a[i], b[i]);
  }
  return static_cast<double>(common) / 1000;
}

}  // namespace moga
