// What speaks for a transition, as numbers, and the confidence that follows. Internal to src/data.
//
// The confidence is a logistic regression on the benchmark's training films (bench/shots,
// scripts/fit_shots.py).
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "data/frame_window.h"
#include "data/shots.h"

namespace moga {

struct Evidence {
  ShotBoundary boundary;
  std::vector<double> numbers;  // as many as its kind has weights
};

// A sudden change right before frame t.
std::optional<Evidence> cut_evidence(const FrameWindow& window, int64_t t);

// The best line (dissolve) or front (wipe) of any length up to `longest` mixed frames that begins at frame a.
struct LineCandidate {
  int64_t a = 0;
  int64_t b = 0;
  double noise = 0;
  double misfit = 0;
};
std::optional<LineCandidate> best_line(const FrameWindow& window, int64_t a, int64_t longest, bool front);
Evidence line_evidence(const FrameWindow& window, const LineCandidate& line, bool front);

// Sets evidence.boundary.confidence, by kind.
void weigh(Evidence& evidence);

}  // namespace moga
