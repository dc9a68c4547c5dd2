#include "data/transitions.h"

#include <algorithm>
#include <cmath>

#include "data/line_fit.h"

namespace moga {
namespace {

constexpr double kLeastConfidence = 0.5;
// Frames within which a plain picture is a flash or a fault, if the shot goes on after it.
constexpr int64_t kInterruption = 9;

// How far a fade reaches from the plain frame `plain` to one side (`step` -1 or 1): the first frame that is
// at rest.
int64_t fade_flank(const FrameWindow& w, int64_t plain, int64_t step, double* error) {
  int64_t best = plain + step;
  double best_score = 1e9;
  for (int64_t length = 1; length <= TransitionDetector::kLongest + 1; ++length) {
    const int64_t end = plain + step * length;
    if (!w.has(end)) {
      break;
    }
    const LineFit fit =
        step < 0 ? fit_line(w, end, plain, 0, true, false) : fit_line(w, plain, end, 0, false, true);
    const double score =
        (fit.line * static_cast<double>(length - 1) + fit.rest * static_cast<double>(kRest)) /
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
  const bool plain = w.is_plain(frame);
  if (plain && !plain_) {
    plain_ = Plain{frame, frame, 0};
    if (frame > 0) {
      plain_->out_begin = fade_flank(w, frame, -1, &plain_->out_error) + 1;
    }
  } else if (!plain && plain_) {
    const Plain from = *plain_;
    plain_.reset();
    if (from.first == 0) {
      return;  // the film begins so
    }
    double in_error = 0;
    ShotBoundary fade;
    fade.kind = BoundaryKind::kFade;
    fade.begin = from.out_begin;
    fade.end = fade_flank(w, frame - 1, 1, &in_error);
    fade.frame = frame;
    fade.gradual = true;
    fade.confidence = std::clamp(1 - 2 * (from.out_error + in_error), kLeastConfidence, 1.0);
    const bool interruption =
        fade.end - fade.begin <= kInterruption && w.has(fade.begin - 1) &&
        w.distance(fade.begin - 1, fade.end) < 0.25 * w.distance(fade.begin - 1, from.first);
    if (!interruption) {
      open_.push_back(fade);
    }
  }
}

// Two dissolves, the second from where the first went, to less contrast than on either side: a fade through
// something that is not quite plain.
void TransitionDetector::join_halves(const FrameWindow& w) {
  if (open_.empty() || open_.back().kind != BoundaryKind::kDissolve) {
    return;
  }
  const ShotBoundary second = open_.back();
  for (const ShotBoundary& first : open_) {
    constexpr int64_t kLongestHold = 24;
    if (first.kind != BoundaryKind::kDissolve || second.begin - 1 < first.end ||
        second.begin - 1 - first.end > kLongestHold || !w.has(first.begin - 1) || !w.has(second.end)) {
      continue;
    }
    const double way =
        std::min(w.distance(first.begin - 1, first.end), w.distance(second.begin - 1, second.end));
    const double contrast = std::min(w.contrast(first.begin - 1), w.contrast(second.end));
    if (w.distance(first.end, second.begin - 1) < 0.03 * way && w.contrast(first.end) < 0.4 * contrast) {
      ShotBoundary fade = second;
      fade.kind = BoundaryKind::kFade;
      fade.begin = first.begin;
      fade.frame = second.begin;
      fade.confidence = std::min(first.confidence, second.confidence);
      open_.push_back(fade);
      return;
    }
  }
}

void TransitionDetector::consider(Evidence evidence) {
  weigh(evidence);
  if (observer) {
    observer(evidence);
  }
  if (evidence.boundary.confidence >= kLeastConfidence) {
    evidence.boundary.gradual = true;
    open_.push_back(evidence.boundary);
  }
}

void TransitionDetector::follow_line(const FrameWindow& window, int64_t frame, bool front) {
  auto& [before, last] = recent_.at(front ? 1 : 0);
  const std::optional<LineCandidate> next = best_line(window, frame, kLongest, front);
  const auto worse = [&last = last](const std::optional<LineCandidate>& other) {
    return !other || other->misfit >= last->misfit;
  };
  // A line to or from a plain picture is half a fade.
  if (last && worse(before) && worse(next) && !window.is_plain(last->a) && !window.is_plain(last->b)) {
    consider(line_evidence(window, *last, front));
    if (!front) {
      join_halves(window);
    }
  }
  before = last;
  last = next;
}

void TransitionDetector::decide(const FrameWindow& window, int64_t frame) {
  follow_plain(window, frame);
  if (const auto cut = cut_evidence(window, frame)) {
    consider(*cut);
  }
  follow_line(window, frame, false);
  follow_line(window, frame, true);
  decided_ = frame + 1;
}

std::vector<ShotBoundary> TransitionDetector::take(bool ended) {
  std::vector<ShotBoundary> done;
  if (plain_ && !ended) {
    return done;  // a fade may swallow what is open
  }
  std::sort(open_.begin(), open_.end(),
            [](const ShotBoundary& a, const ShotBoundary& b) { return a.begin < b.begin; });
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
    std::stable_sort(group.begin(), group.end(),
                     [&](const auto& a, const auto& b) { return rank(a) > rank(b); });
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
  std::sort(done.begin(), done.end(),
            [](const ShotBoundary& a, const ShotBoundary& b) { return a.frame < b.frame; });
  return done;
}

}  // namespace moga
