// Tells steps that would harm a run: a loss or gradient that is not finite, or far above what it was lately.
//
// Losses and gradient norms are compared as logarithms with the median of the last accepted steps, in units
// of the median absolute deviation: neither is moved by the few outliers that it is there to find.
#pragma once

#include <cstdint>
#include <deque>
#include <nlohmann/json.hpp>
#include <string>

namespace moga {

struct StepGuardSettings {
  double spike_factor = 10;  // robust standard deviations above the median; 0: only what is not finite
  int64_t max_skipped = 10;  // in a row
};

class StepGuard {
 public:
  explicit StepGuard(const StepGuardSettings& settings) : settings_(settings) {}

  // Why this step must not be taken; empty if it may. Accepted steps enter the statistics.
  std::string judge(double loss, double gradient_norm);
  // Steps refused since the last accepted one; too_many() says that the run should stop.
  int64_t skipped_in_a_row() const { return skipped_; }
  bool too_many() const { return skipped_ >= settings_.max_skipped; }
  // Another stage has other films: what was usual no longer counts.
  void forget() { losses_.clear(), norms_.clear(), skipped_ = 0; }

  // All that judge() depends on, exactly, for checkpoints. Throws Error on what state() did not make.
  nlohmann::json state() const;
  void set_state(const nlohmann::json& state);

 private:
  StepGuardSettings settings_;
  std::deque<double> losses_;  // logarithms, newest last
  std::deque<double> norms_;
  int64_t skipped_ = 0;
};

}  // namespace moga
