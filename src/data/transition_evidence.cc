#include "data/transition_evidence.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <span>

#include "data/camera_fit.h"
#include "data/front_fit.h"
#include "data/line_fit.h"

namespace moga {
namespace {

constexpr int64_t kFewestMixed = 3;  // a transition with fewer mixed frames is a cut that an encoder smeared
constexpr int64_t kFlash = 9;        // frames within which a flash is over

double step(const FrameWindow& w, int64_t frame) {
  return w.has(frame - 1) && w.has(frame) ? w.distance(frame - 1, frame) : 0;
}

double median_step(const FrameWindow& w, int64_t frame, int64_t reach) {
  std::array<double, 32> steps{};
  size_t count = 0;
  for (int64_t t = frame - reach; t <= frame + reach; ++t) {
    if (t != frame && w.has(t - 1) && w.has(t)) {
      steps.at(count++) = step(w, t);
    }
  }
  const auto middle = steps.begin() + static_cast<std::ptrdiff_t>(count / 2);
  std::nth_element(steps.begin(), middle, steps.begin() + static_cast<std::ptrdiff_t>(count));
  return count == 0 ? 0 : *middle;
}

// The picture comes back within a few frames: something passed before the lens, or a light flashed.
bool is_flash(const FrameWindow& w, int64_t frame) {
  for (int64_t before = 1; before <= kFlash; ++before) {
    for (int64_t after = before == 1 ? 1 : 0; before + after <= kFlash; ++after) {
      const int64_t a = frame - before;
      const int64_t b = frame + after;
      if (!w.has(a) || !w.has(b) || w.distance(a, b) > 0.25 * step(w, frame)) {
        continue;
      }
      if (b - a <= 4) {
        return true;
      }
      // Longer interruptions must be light; a short shot between two of one camera may be anything.
      double brightest = 0;
      for (int64_t j = a + 1; j < b; ++j) {
        brightest = std::max(brightest, w.brightness(j));
      }
      if (brightest > std::max(w.brightness(a), w.brightness(b)) + 15) {
        return true;
      }
    }
  }
  return false;
}

// The picture was where the way from a to b leads a moment ago, or is soon back where it came from: a flash
// dies away.
bool returns(const FrameWindow& w, int64_t a, int64_t b) {
  const double near = 0.25 * w.distance(a, b);
  for (int64_t k = 1; k <= kFlash; ++k) {
    if ((w.has(a - k) && w.distance(a - k, b) < near) || (w.has(b + k) && w.distance(a, b + k) < near)) {
      return true;
    }
  }
  return false;
}

// How badly frames a to b are explained by a line or a front; nothing, if not at all.
std::optional<double> line_misfit(const FrameWindow& w, int64_t a, int64_t b, double noise) {
  const LineFit fit = fit_line(w, a, b, noise, true, true);
  if (fit.largest > 0.5 || fit.rest > 0.25 || fit.line > 0.08) {
    return std::nullopt;
  }
  return fit.line + fit.rest;
}
std::optional<double> front_misfit(const FrameWindow& w, int64_t a, int64_t b) {
  const double misfit = 1 - fit_sweep(w, a, b);
  return misfit > 0.6 ? std::nullopt : std::optional(misfit);
}

double logistic(double x) {
  return 1 / (1 + std::exp(-x));
}

// Of each kind: the constant, then a weight for each number.
constexpr std::array<double, 9> kCutWeights = {-8.5428, 0.1495, 1.1649, 0.1285, 1.4114,
                                               0.5601,  0.6860, 1.0285, -0.6520};
constexpr std::array<double, 9> kLineWeights = {0.1071,  -0.3706, 1.3682,  8.7825, 6.3713,
                                                -0.8962, -0.6298, -1.5358, 6.7655};
constexpr std::array<double, 7> kFrontWeights = {-7.1324, -0.3623, 0.6209, 7.9669, 6.5245, 11.0502, -10.2346};

std::span<const double> weights_of(BoundaryKind kind) {
  switch (kind) {
    case BoundaryKind::kCut:
      return kCutWeights;
    case BoundaryKind::kWipe:
      return kFrontWeights;
    default:
      return kLineWeights;
  }
}

}  // namespace

std::optional<Evidence> cut_evidence(const FrameWindow& w, int64_t t) {
  if (!w.has(t - 1) || !w.has(t)) {
    return std::nullopt;
  }
  const double change = step(w, t);
  constexpr double kLeastChange = 3;
  if (change < kLeastChange || change < step(w, t - 1) || change <= step(w, t + 1) ||
      change < 4 * median_step(w, t, 6)) {
    return std::nullopt;
  }
  // Most of the way from before to after is made in this step.
  if (change < 0.2 * w.distance(std::max(t - 3, w.oldest()), std::min(t + 2, w.count() - 1)) ||
      is_flash(w, t)) {
    return std::nullopt;
  }
  double usual_step = 0;
  for (int64_t j = t - 6; j <= t + 6; ++j) {
    usual_step = std::max(usual_step, std::abs(j - t) > 1 ? step(w, j) : 0);
  }
  const auto novelty = [&](int64_t frame) {
    return w.has(frame - 1) && w.has(frame) ? w.novelty(frame - 1, frame) : 0;
  };
  const double own = novelty(t);
  // The steps right before and after may belong to a cut that the encoder smeared.
  const double usual = std::max({novelty(t - 3), novelty(t - 2), novelty(t + 2), novelty(t + 3)});
  const double beside = std::max(novelty(t - 1), novelty(t + 1));
  Evidence evidence;
  evidence.boundary.frame = evidence.boundary.begin = evidence.boundary.end = t;
  evidence.boundary.kind = BoundaryKind::kCut;
  evidence.numbers = {
      std::log(std::min(own, 1.0) + 0.01),
      std::log((std::min(own, 1.0) + 0.02) / (std::min(usual, 1.0) + 0.02)),
      std::log((std::min(own, 1.0) + 0.02) / (std::min(beside, 1.0) + 0.02)),
      std::log((change + 1) / (usual_step + 1)),
      std::log((change + 1) / (std::max(step(w, t - 1), step(w, t + 1)) + 1)),
      std::log(change + 1),
      std::log(w.novelty(t - 1, t, true) + 0.02),
      std::log(std::min(w.novelty(std::max(t - 4, w.oldest()), std::min(t + 3, w.count() - 1)), 1.0) + 0.01)};
  return evidence;
}

std::optional<LineCandidate> best_line(const FrameWindow& w, int64_t a, int64_t longest, bool front) {
  double noise = 1e9;
  for (int64_t j = a - kRest; j <= a + kFewestMixed; ++j) {
    if (w.has(j - 1) && w.has(j)) {
      noise = std::min(noise, step(w, j));
    }
  }
  std::optional<LineCandidate> best;
  const int64_t fewest = front ? kFewestMixed + 2 : kFewestMixed;
  for (int64_t b = a + fewest + 1; b <= a + longest + 1 && w.has(b); ++b) {
    const double whole = w.distance(a, b);
    constexpr double kLeastWay = 12;  // squared grey levels
    if (whole < kLeastWay || whole < 8 * noise) {
      continue;
    }
    const std::optional<double> misfit = front ? front_misfit(w, a, b) : line_misfit(w, a, b, noise);
    if (misfit && (!best || *misfit < best->misfit)) {
      best = LineCandidate{a, b, noise, *misfit};
    }
  }
  constexpr double kSomewhere = 0.1;  // something moves somewhere
  if (best && (spread_of_change(w, a, best->b) < kSomewhere || returns(w, a, best->b))) {
    return std::nullopt;
  }
  return best;
}

Evidence line_evidence(const FrameWindow& w, const LineCandidate& line, bool front) {
  const auto [a, b, noise, misfit] = line;
  const LineFit fit = fit_line(w, a, b, noise, true, true);
  Evidence evidence;
  evidence.boundary.kind = front ? BoundaryKind::kWipe : BoundaryKind::kDissolve;
  evidence.boundary.begin = a + 1;
  evidence.boundary.end = b;
  evidence.boundary.frame = a + 1 + (b - a - 1) / 2;
  // What both kinds have: the shots on either side differ, everywhere, and go on as they were.
  evidence.numbers = {std::log(fit.rest + 0.002), std::log(std::min(w.novelty(a, b), 1.0) + 0.01),
                      spread_of_change(w, a, b), std::log(unmoved(w, a, b) + 0.02)};
  if (front) {
    evidence.numbers.insert(evidence.numbers.end(), {fit_sweep(w, a, b), unevenness(w, a, b)});
  } else {
    evidence.numbers.insert(evidence.numbers.end(),
                            {std::log(fit.line + 0.002), std::log(w.distance(a, b)),
                             fit.largest * static_cast<double>(b - a), fit_detail(w, a, b)});
  }
  return evidence;
}

void weigh(Evidence& evidence) {
  const std::span<const double> weights = weights_of(evidence.boundary.kind);
  double sum = weights[0];
  for (size_t i = 0; i < evidence.numbers.size(); ++i) {
    sum += weights[i + 1] * evidence.numbers[i];
  }
  evidence.boundary.confidence = logistic(sum);
}

}  // namespace moga
