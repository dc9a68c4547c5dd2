#include "data/camera_fit.h"

#include <algorithm>

namespace moga {
namespace {

// Squared differences of two frames (all channels), and what an affine motion leaves of them: least squares
// of d = g_x (p0 + p1 x + p2 y) + g_y (p3 + p4 x + p5 y) over all places but the border, where d is the
// difference and g the gradient of the mean of both frames.
struct Change {
  double all = 0;
  double left = 0;
};

Change camera_change(const cv::Mat& from, const cv::Mat& to) {
  constexpr int kUnknowns = 6;
  cv::Matx<double, kUnknowns, kUnknowns> squares = cv::Matx<double, kUnknowns, kUnknowns>::zeros();
  cv::Vec<double, kUnknowns> right = cv::Vec<double, kUnknowns>::all(0);
  Change change;
  const int channels = from.channels();
  for (int y = 1; y + 1 < from.rows; ++y) {
    const uint8_t* a = from.ptr(y);
    const uint8_t* b = to.ptr(y);
    const auto stride_a = static_cast<std::ptrdiff_t>(from.step);
    const auto stride_b = static_cast<std::ptrdiff_t>(to.step);
    const double v = 2.0 * y / from.rows - 1;
    for (int i = channels; i < (from.cols - 1) * channels; ++i) {
      const int x = i / channels;
      const double u = 2.0 * x / from.cols - 1;
      const double across = a[i + channels] - a[i - channels] + b[i + channels] - b[i - channels];
      const double down = a[i + stride_a] - a[i - stride_a] + b[i + stride_b] - b[i - stride_b];
      const double difference = b[i] - a[i];
      const cv::Vec<double, kUnknowns> row(across, across * u, across * v, down, down * u, down * v);
      for (int p = 0; p < kUnknowns; ++p) {
        for (int q = p; q < kUnknowns; ++q) {
          squares(p, q) += row[p] * row[q];
        }
      }
      right += row * difference;
      change.all += difference * difference;
    }
  }
  for (int p = 0; p < kUnknowns; ++p) {
    squares(p, p) += 1;  // keeps flat pictures solvable
    for (int q = 0; q < p; ++q) {
      squares(p, q) = squares(q, p);
    }
  }
  const cv::Vec<double, kUnknowns> motion = squares.solve(right, cv::DECOMP_CHOLESKY);
  change.left = std::max(0.0, change.all - motion.dot(right));
  return change;
}

}  // namespace

double unmoved(const FrameWindow& w, int64_t a, int64_t b) {
  constexpr int64_t kParts = 4;
  Change sum;
  for (int64_t i = 0; i < kParts; ++i) {
    const Change part =
        camera_change(w.colours(a + (b - a) * i / kParts), w.colours(a + (b - a) * (i + 1) / kParts));
    sum.all += part.all;
    sum.left += part.left;
  }
  return sum.all > 0 ? sum.left / sum.all : 1;
}

}  // namespace moga
