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

double squared_difference(const cv::Mat& a, const cv::Mat& b, int cell) {
  double sum = 0;
  for (int c = 3 * cell; c < 3 * cell + 3; ++c) {
    const double difference = static_cast<double>(a.data[c]) - b.data[c];
    sum += difference * difference;
  }
  return sum;
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
  double front = 0;
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
      front += std::abs(from_a + to_b - 1) + 0.5 * std::abs(along - share);
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
  fit.front = front / mixed;
  fit.rest = count > 0 ? rest / (count * whole) : 0;
  return fit;
}

FrontFit fit_front(const FrameWindow& w, int64_t a, int64_t b) {
  const cv::Mat& first = w.colours(a);
  const cv::Mat& last = w.colours(b);
  const int cells = first.rows * first.cols;
  std::vector<double> change(static_cast<size_t>(cells));
  double total = 0;
  for (int i = 0; i < cells; ++i) {
    change[static_cast<size_t>(i)] = squared_difference(first, last, i);
    total += change[static_cast<size_t>(i)];
  }
  FrontFit fit;
  if (total <= 0 || b - a < 2) {
    return fit;
  }
  fit = {0, 0, 0};
  std::vector<bool> taken(static_cast<size_t>(cells));
  for (int64_t j = a + 1; j < b; ++j) {
    const cv::Mat& now = w.colours(j);
    double odd = 0;
    double new_part = 0;
    for (int i = 0; i < cells; ++i) {
      const auto cell = static_cast<size_t>(i);
      const double to_first = squared_difference(now, first, i);
      const double to_last = squared_difference(now, last, i);
      taken[cell] = to_last < to_first;
      new_part += taken[cell] ? change[cell] : 0;
      odd += std::min({to_first, to_last, change[cell]});
    }
    // Along the rows and down the columns, weighted by what the cells have to say.
    double apart = 0;
    double pairs = 0;
    for (int i = 0; i < cells; ++i) {
      const auto cell = static_cast<size_t>(i);
      for (const int next : {i % first.cols + 1 < first.cols ? i + 1 : cells, i + first.cols}) {
        if (next < cells) {
          const double weight = std::min(change[cell], change[static_cast<size_t>(next)]);
          pairs += weight;
          apart += taken[cell] != taken[static_cast<size_t>(next)] ? weight : 0;
        }
      }
    }
    const double frames = static_cast<double>(b - a - 1);
    const double share = static_cast<double>(j - a) / static_cast<double>(b - a);
    fit.odd += odd / total / frames;
    fit.ragged += pairs > 0 ? apart / pairs / frames : 0;
    fit.uneven = std::max(fit.uneven, std::abs(new_part / total - share));
  }
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

double fit_sweep(const FrameWindow& w, int64_t a, int64_t b) {
  double best = 0;
  for (const bool columns : {true, false}) {
    for (const bool backward : {false, true}) {
      double on = 0;
      double all = 0;
      for (int64_t j = a + 1; j <= b; ++j) {
        const std::vector<float>& steps = columns ? w.column_steps(j) : w.row_steps(j);
        const auto cells = static_cast<double>(steps.size());
        // In this step the front has swept from one place to the other; a cell on either side may be mixed.
        double from = cells * static_cast<double>(j - 1 - a) / static_cast<double>(b - a);
        double to = cells * static_cast<double>(j - a) / static_cast<double>(b - a);
        if (backward) {
          from = cells - from;
          to = cells - to;
          std::swap(from, to);
        }
        for (int64_t i = 0; i < static_cast<int64_t>(steps.size()); ++i) {
          const double step = steps[static_cast<size_t>(i)];
          all += step;
          on += static_cast<double>(i) + 1.5 > from && static_cast<double>(i) - 0.5 < to ? step : 0;
        }
      }
      best = std::max(best, all > 0 ? on / all : 0);
    }
  }
  return best;
}

double spread_of_change(const FrameWindow& w, int64_t a, int64_t b) {
  const cv::Mat& first = w.colours(a);
  const cv::Mat& last = w.colours(b);
  const int cells = first.rows * first.cols;
  double sum = 0;
  double squares = 0;
  for (int i = 0; i < cells; ++i) {
    const double change = squared_difference(first, last, i);
    sum += change;
    squares += change * change;
  }
  return squares > 0 ? sum * sum / squares / cells : 1;
}

}  // namespace moga
