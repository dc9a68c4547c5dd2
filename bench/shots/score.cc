#include "bench/shots/score.h"

#include <algorithm>
#include <cstdlib>

namespace moga::bench {
namespace {

constexpr int64_t kNear = 2;

double shared_part(const ShotBoundary& found, const Truth& truth) {
  const int64_t both = std::min(found.end, truth.end) - std::max(found.begin, truth.begin);
  const int64_t either = std::max(found.end, truth.end) - std::min(found.begin, truth.begin);
  return both <= 0 ? 0 : static_cast<double>(both) / static_cast<double>(either);
}

}  // namespace

void Score::operator+=(const Score& other) {
  cuts += other.cuts;
  transitions += other.transitions;
  kinds_right += other.kinds_right;
  false_alarms += other.false_alarms;
  minutes += other.minutes;
  overlap += other.overlap;
}

Score score(const std::vector<ShotBoundary>& found, const std::vector<Truth>& truth, double minutes) {
  Score sum;
  sum.minutes = minutes;
  std::vector<bool> used(found.size(), false);
  for (const Truth& t : truth) {
    const bool is_cut = t.kind == BoundaryKind::kCut;
    Count& count = is_cut ? sum.cuts : sum.transitions;
    ++count.expected;
    size_t best = found.size();
    for (size_t i = 0; i < found.size(); ++i) {
      const ShotBoundary& f = found[i];
      if (used[i] || (f.kind == BoundaryKind::kCut) != is_cut) {
        continue;
      }
      const bool right = is_cut ? std::abs(f.frame - t.begin) <= 1 : shared_part(f, t) >= 0.5;
      if (right && (best == found.size() || shared_part(f, t) > shared_part(found[best], t))) {
        best = i;
      }
    }
    if (best < found.size()) {
      used[best] = true;
      ++count.right;
      if (!is_cut) {
        sum.kinds_right += found[best].kind == t.kind ? 1 : 0;
        sum.overlap += shared_part(found[best], t);
      }
    }
  }
  for (const ShotBoundary& f : found) {
    ++(f.kind == BoundaryKind::kCut ? sum.cuts : sum.transitions).found;
    const bool near = std::any_of(truth.begin(), truth.end(), [&](const Truth& t) {
      return std::min(f.begin, f.frame) <= t.end + kNear && std::max(f.end, f.frame) >= t.begin - kNear;
    });
    sum.false_alarms += near ? 0 : 1;
  }
  return sum;
}

}  // namespace moga::bench
