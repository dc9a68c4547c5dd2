// How well found boundaries fit the truth.
#pragma once

#include <cstdint>
#include <vector>

#include "bench/shots/films.h"

namespace moga::bench {

struct Count {
  int64_t expected = 0;
  int64_t found = 0;
  int64_t right = 0;

  double f1() const {
    return expected + found == 0 ? 1 : 2 * static_cast<double>(right) / static_cast<double>(expected + found);
  }
  void operator+=(const Count& other) {
    expected += other.expected;
    found += other.found;
    right += other.right;
  }
};

// Cuts: `found` counts boundaries of the kind cut, right is one within a frame of a true cut. Transitions:
// right is one of the kind dissolve, fade or wipe whose extent shares at least half of its frames with the
// truth's (intersection over union). A boundary is paired once. False alarms are boundaries of any kind that
// come near none (2 frames) of the truth.
struct Score {
  Count cuts;
  Count transitions;
  int64_t kinds_right = 0;  // of the right transitions
  int64_t false_alarms = 0;
  double minutes = 0;
  double overlap = 0;  // sum of intersection over union of the right transitions

  void operator+=(const Score& other);
};

Score score(const std::vector<ShotBoundary>& found, const std::vector<Truth>& truth, double minutes);

}  // namespace moga::bench
