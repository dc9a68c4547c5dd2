#include "data/line_fit.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace moga {
namespace {

// What of a frame the mixture (1 - share) a + share b does not explain, as a squared distance. (In a space
// with an inner product |x - (1-s)a - s b|^2 = (1-s)|x-a|^2 + s|x-b|^2 - s(1-s)|a-b|^2.)
double mixture_error(const FrameWindow& w, int64_t frame, int64_t a, int64_t b, double share) {
  return std::max(0.0, (1 - share) * w.distance(a, frame) + share * w.distance(b, frame) -
                           share * (1 - share) * w.distance(a, b));
}

}  // namespace

LineFit fit_line(const FrameWindow& w, int64_t a, int64_t b, double noise, bool rest_before,
                 bool rest_after) {
  const double whole = w.distance(a, b);
  LineFit fit;
  if (whole <= 0) {
    return fit;
  }
  double line = 0;
  double last = 0;
  fit.largest = 0;
  for (int64_t j = a + 1; j <= b; ++j) {
    const double share = static_cast<double>(j - a) / static_cast<double>(b - a);
    const double from_a = w.distance(a, j) / whole;
    const double to_b = w.distance(j, b) / whole;
    const double along = 0.5 * (1 + from_a - to_b);
    fit.largest = std::max(fit.largest, along - last);
    last = along;
    if (j < b) {
      line += std::max(0.0, mixture_error(w, j, a, b, share) - noise);
    }
  }
  double rest = 0;
  double count = 0;
  for (int64_t k = 1; k <= kRest; ++k) {
    if (rest_before && w.has(a - k)) {
      rest += std::max(0.0, w.distance(a - k, a) - noise);
      ++count;
    }
    if (rest_after && w.has(b + k)) {
      rest += std::max(0.0, w.distance(b, b + k) - noise);
      ++count;
    }
  }
  const auto mixed = static_cast<double>(std::max<int64_t>(1, b - a - 1));
  fit.line = line / (mixed * whole);
  fit.rest = count > 0 ? rest / (count * whole) : 0;
  return fit;
}

double fit_detail(const FrameWindow& w, int64_t a, int64_t b) {
  double both = 0;
  double squares = 0;
  for (int64_t j = a + 1; j < b; ++j) {
    const double share = static_cast<double>(j - a) / static_cast<double>(b - a);
    const double even = (1 - share) * w.detail(a) + share * w.detail(b);
    const double loss = even - (1 - share) * (1 - share) * w.detail(a) - share * share * w.detail(b);
    both += (even - w.detail(j)) * loss;
    squares += loss * loss;
  }
  return squares > 0 ? std::clamp(both / squares, -1.0, 2.0) : 0;
}

double spread_of_change(const FrameWindow& w, int64_t a, int64_t b) {
  const std::vector<double> changes = w.cell_differences(a, b);
  double sum = 0;
  double squares = 0;
  for (const double change : changes) {
    sum += change;
    squares += change * change;
  }
  return squares > 0 ? sum * sum / squares / static_cast<double>(changes.size()) : 1;
}

}  // namespace moga
