#include "data/transitions.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace moga {
namespace {

constexpr int64_t kRest = 6;          // frames on either side that must be at rest
constexpr int64_t kFewestMixed = 3;   // a transition with fewer mixed frames is a cut that an encoder smeared
constexpr int64_t kFlash = 9;         // frames within which a flash is over

double median_step(const FrameWindow& w, int64_t frame, int64_t reach) {
  std::array<double, 32> steps{};
  size_t count = 0;
  for (int64_t t = frame - reach; t <= frame + reach && count < steps.size(); ++t) {
    if (t != frame && w.has(t - 1) && w.has(t)) {
      steps.at(count++) = w.distance(t - 1, t);
    }
  }
  if (count == 0) {
    return 0;
  }
  const auto middle = steps.begin() + static_cast<std::ptrdiff_t>(count / 2);
  std::nth_element(steps.begin(), middle, steps.begin() + static_cast<std::ptrdiff_t>(count));
  return *middle;
}

// What of a frame the mixture (1 - share) a + share b does not explain, as a squared distance. (For points of a
// space with inner product: |x - (1-s)a - s b|^2 = (1-s)|x-a|^2 + s|x-b|^2 - s(1-s)|a-b|^2.)
double mixture_error(const FrameWindow& w, int64_t frame, int64_t a, int64_t b, double share) {
  return std::max(0.0, (1 - share) * w.distance(a, frame) + share * w.distance(b, frame) -
                           share * (1 - share) * w.distance(a, b));
}

// How well "rest at a, straight line, rest at b" explains the frames from a - kRest to b + kRest. Errors are means
// of squared distances as shares of the squared distance from a to b, less what noise makes.
struct Fit {
  double line = 1;     // of the mixed frames
  double rest = 1;     // of the frames before a and after b
  double largest = 1;  // step between neighbours on the way from a to b, as a share of the way
  double score() const { return line + 0.5 * rest; }
};

Fit fit_line(const FrameWindow& w, int64_t a, int64_t b, double noise, bool rest_before, bool rest_after) {
  const double whole = w.distance(a, b);
  Fit fit;
  if (whole <= 0) {
    return fit;
  }
  double line = 0;
  double last = 0;
  fit.largest = 0;
  for (int64_t j = a + 1; j <= b; ++j) {
    const double share = static_cast<double>(j - a) / static_cast<double>(b - a);
    const double along = j == b ? 1 : 0.5 * (1 + (w.distance(a, j) - w.distance(j, b)) / whole);
    fit.largest = std::max(fit.largest, along - last);
    last = along;
    if (j < b) {
      line += std::max(0.0, mixture_error(w, j, a, b, share) - noise);
    }
  }
  double rest = 0;
  double rest_count = 0;
  for (int64_t k = 1; k <= kRest; ++k) {
    if (rest_before && w.has(a - k)) {
      rest += std::max(0.0, w.distance(a - k, a) - noise);
      ++rest_count;
    }
    if (rest_after && w.has(b + k)) {
      rest += std::max(0.0, w.distance(b, b + k) - noise);
      ++rest_count;
    }
  }
  fit.line = b - a > 1 ? line / (static_cast<double>(b - a - 1) * whole) : 0;
  fit.rest = rest_count > 0 ? rest / (rest_count * whole) : 0;
  return fit;
}

// The picture comes back within a few frames: something passed before the lens, or a light flashed.
bool is_flash(const FrameWindow& w, int64_t frame) {
  const double step = w.distance(frame - 1, frame);
  for (int64_t before = 1; before <= kFlash; ++before) {
    for (int64_t after = before == 1 ? 1 : 0; before + after <= kFlash; ++after) {
      const int64_t a = frame - before;
      const int64_t b = frame + after;
      if (!w.has(a) || !w.has(b) || w.distance(a, b) > 0.25 * step) {
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

std::optional<ShotBoundary> find_cut(const FrameWindow& w, int64_t t) {
  if (t < 1 || !w.has(t - 1)) {
    return std::nullopt;
  }
  const auto step = [&](int64_t frame) { return w.has(frame - 1) && w.has(frame) ? w.distance(frame - 1, frame) : 0; };
  const double change = step(t);
  constexpr double kLeastChange = 3;
  if (change < kLeastChange || change < step(t - 1) || change <= step(t + 1) || change < 6 * median_step(w, t, 6)) {
    return std::nullopt;
  }
  // Most of the way from before to after is made in this step.
  const int64_t before = std::max(t - 3, w.oldest());
  const int64_t after = std::min(t + 2, w.count() - 1);
  if (change < 0.2 * w.distance(before, after)) {
    return std::nullopt;
  }
  const double novelty = w.novelty(t - 1, t);
  double usual = 0;
  // The steps right before and after may belong to a cut that the encoder smeared.
  for (const int64_t frame : {t - 2, t - 3, t + 2, t + 3}) {
    if (w.has(frame - 1) && w.has(frame)) {
      usual = std::max(usual, w.novelty(frame - 1, frame));
    }
  }
  constexpr double kLeastNovelty = 0.1;
  const double strength = std::min(novelty / kLeastNovelty, novelty / (3 * usual + 1e-6));
  if (strength < 1 || is_flash(w, t)) {
    return std::nullopt;
  }
  ShotBoundary cut;
  cut.frame = cut.begin = cut.end = t;
  cut.kind = BoundaryKind::kCut;
  cut.gradual = true;
  cut.confidence = 1 - 0.5 / strength;
  return cut;
}

// Each part of the picture shows either shot, none a mixture, and the new one takes over evenly.
bool is_wipe(const FrameWindow& w, int64_t a, int64_t b) {
  const auto part = [&](int64_t frame, double* unexplained) {
    const cv::Mat& first = w.colours(a);
    const cv::Mat& last = w.colours(b);
    const cv::Mat& now = w.colours(frame);
    double total = 0;
    double taken = 0;
    double odd = 0;
    for (int i = 0; i < first.rows * first.cols; ++i) {
      double ab = 0;
      double to_a = 0;
      double to_b = 0;
      for (int c = 0; c < 3; ++c) {
        const double fa = first.data[3 * i + c];
        const double fb = last.data[3 * i + c];
        const double fn = now.data[3 * i + c];
        ab += (fa - fb) * (fa - fb);
        to_a += (fn - fa) * (fn - fa);
        to_b += (fn - fb) * (fn - fb);
      }
      total += ab;
      taken += to_b < to_a ? ab : 0;
      odd += std::min({to_a, to_b, ab});
    }
    *unexplained = odd / total;
    return taken / total;
  };
  double last = 0;
  for (int64_t j = a + 1; j < b; ++j) {
    const double share = static_cast<double>(j - a) / static_cast<double>(b - a);
    double unexplained = 0;
    const double taken = part(j, &unexplained);
    if (unexplained > 0.12 || std::abs(taken - share) > 0.25 || taken < last - 0.05) {
      return false;
    }
    last = taken;
  }
  return true;
}

std::optional<ShotBoundary> find_line(const FrameWindow& w, int64_t a) {
  std::optional<ShotBoundary> best;
  double best_score = 1;
  double noise = 1e9;
  for (int64_t j = a - kRest; j <= a + kFewestMixed; ++j) {
    if (w.has(j - 1) && w.has(j)) {
      noise = std::min(noise, w.distance(j - 1, j));
    }
  }
  for (int64_t mixed = kFewestMixed; mixed <= TransitionDetector::kLongest; ++mixed) {
    const int64_t b = a + mixed + 1;
    if (!w.has(b)) {
      break;
    }
    const double whole = w.distance(a, b);
    constexpr double kLeastWay = 12;  // squared grey levels
    if (whole < kLeastWay || whole < 8 * noise) {
      continue;
    }
    const Fit fit = fit_line(w, a, b, noise, true, true);
    const bool steady = fit.largest < 0.5 && fit.rest < 0.12;
    const bool dissolve = steady && fit.line < 0.035;
    const bool wipe = steady && !dissolve && fit.line < 0.25 && mixed >= 5;
    if ((!dissolve && !wipe) || fit.score() >= best_score) {
      continue;
    }
    if (wipe && !is_wipe(w, a, b)) {
      continue;
    }
    if (w.novelty(a, b) < 0.3 || w.novelty(a, b, true) < 0.15) {
      continue;
    }
    best_score = fit.score();
    ShotBoundary found;
    found.kind = dissolve ? BoundaryKind::kDissolve : BoundaryKind::kWipe;
    found.begin = a + 1;
    found.end = b;
    found.frame = a + 1 + mixed / 2;
    found.gradual = true;
    found.confidence = std::clamp(1 - 4 * fit.score(), 0.5, 1.0);
    best = found;
  }
  return best;
}

// How far a fade reaches from the plain frame `plain` to one side (`step` -1 or 1): the first frame that is at rest.
int64_t fade_flank(const FrameWindow& w, int64_t plain, int64_t step, double* error) {
  int64_t best = plain + step;
  double best_score = 1e9;
  for (int64_t length = 1; length <= TransitionDetector::kLongest + 1; ++length) {
    const int64_t end = plain + step * length;
    if (!w.has(end)) {
      break;
    }
    const Fit fit = step < 0 ? fit_line(w, end, plain, 0, true, false) : fit_line(w, plain, end, 0, false, true);
    // Long flanks explain as much as short ones do, or more.
    const double score = (fit.line * static_cast<double>(length - 1) + fit.rest * static_cast<double>(kRest)) /
                         static_cast<double>(length - 1 + kRest);
    if (score < best_score) {
      best_score = score;
      best = end;
    }
  }
  *error = best_score;
  return best;
}

}  // namespace

void TransitionDetector::follow_plain(const FrameWindow& w, int64_t frame) {
  double most = 0;
  for (int64_t j = std::max(w.oldest(), frame - kLongest); j <= std::min(w.count() - 1, frame + kLongest); ++j) {
    most = std::max(most, w.contrast(j));
  }
  const bool plain = w.contrast(frame) < std::clamp(0.12 * most, 1.0, 4.0);
  if (plain && !plain_) {
    plain_ = Plain{frame, frame, 0, 0};
    if (frame > 0) {
      plain_->out_begin = fade_flank(w, frame, -1, &plain_->out_error) + 1;
      plain_->contrast = w.contrast(plain_->out_begin - 1);
    }
  } else if (!plain && plain_) {
    const Plain from = *plain_;
    plain_.reset();
    double in_error = 0;
    const int64_t end = fade_flank(w, frame - 1, 1, &in_error);
    if (from.first == 0) {
      return;  // the film begins so
    }
    ShotBoundary fade;
    fade.kind = BoundaryKind::kFade;
    fade.begin = from.out_begin;
    fade.end = end;
    fade.frame = frame;
    fade.gradual = true;
    fade.confidence = std::clamp(1 - 2 * (from.out_error + in_error), 0.5, 1.0);
    const bool interruption = fade.end - fade.begin <= kFlash && w.has(fade.begin - 1) &&
                              w.distance(fade.begin - 1, fade.end) < 0.25 * w.distance(fade.begin - 1, from.first);
    if (!interruption) {
      open_.push_back(fade);
    }
  }
}

void TransitionDetector::decide(const FrameWindow& window, int64_t frame) {
  follow_plain(window, frame);
  if (auto cut = find_cut(window, frame)) {
    open_.push_back(*cut);
  }
  if (auto line = find_line(window, frame)) {
    open_.push_back(*line);
  }
  decided_ = frame + 1;
}

std::vector<ShotBoundary> TransitionDetector::take(bool ended) {
  std::vector<ShotBoundary> done;
  if (plain_ && !ended) {
    return done;  // a fade may swallow what is open
  }
  std::sort(open_.begin(), open_.end(), [](const ShotBoundary& a, const ShotBoundary& b) { return a.begin < b.begin; });
  size_t first = 0;
  while (first < open_.size()) {
    // Candidates that overlap, directly or through others.
    int64_t end = open_[first].end;
    size_t last = first + 1;
    while (last < open_.size() && open_[last].begin <= end + 1) {
      end = std::max(end, open_[last].end);
      ++last;
    }
    if (!ended && end + kLongest + 2 > decided_) {
      break;
    }
    const auto rank = [](const ShotBoundary& b) {
      return b.confidence + (b.kind == BoundaryKind::kFade ? 2 : b.kind == BoundaryKind::kCut ? 1 : 0);
    };
    std::vector<ShotBoundary> group(open_.begin() + static_cast<std::ptrdiff_t>(first),
                                    open_.begin() + static_cast<std::ptrdiff_t>(last));
    std::stable_sort(group.begin(), group.end(), [&](const auto& a, const auto& b) { return rank(a) > rank(b); });
    std::vector<ShotBoundary> kept;
    for (const ShotBoundary& candidate : group) {
      const bool free = std::none_of(kept.begin(), kept.end(), [&](const ShotBoundary& k) {
        return candidate.begin <= k.end + 1 && candidate.end + 1 >= k.begin;
      });
      if (free) {
        kept.push_back(candidate);
      }
    }
    done.insert(done.end(), kept.begin(), kept.end());
    first = last;
  }
  open_.erase(open_.begin(), open_.begin() + static_cast<std::ptrdiff_t>(first));
  std::sort(done.begin(), done.end(), [](const ShotBoundary& a, const ShotBoundary& b) { return a.frame < b.frame; });
  return done;
}

}  // namespace moga
