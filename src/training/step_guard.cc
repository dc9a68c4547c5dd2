#include "training/step_guard.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"

namespace moga {

namespace {

constexpr size_t kGuardWindow = 128;  // accepted steps that are remembered
constexpr size_t kGuardEnough = 16;   // fewer say nothing about what is usual
// A tenth of the value counts as one deviation at least: losses that hardly vary must not make harmless steps
// look like spikes.
constexpr double kLeastDeviation = 0.1;
constexpr double kDeviationsPerMad = 1.4826;  // of a normal distribution

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// The highest logarithm that is still usual; infinite while too little is known.
double highest_usual(const std::deque<double>& seen, double factor) {
  if (factor <= 0 || seen.size() < kGuardEnough) {
    return std::numeric_limits<double>::infinity();
  }
  const double centre = median({seen.begin(), seen.end()});
  std::vector<double> distances;
  for (const double value : seen) {
    distances.push_back(std::abs(value - centre));
  }
  return centre + factor * std::max(kLeastDeviation, kDeviationsPerMad * median(distances));
}

void remember(std::deque<double>& seen, double value) {
  seen.push_back(value);
  if (seen.size() > kGuardWindow) {
    seen.pop_front();
  }
}

}  // namespace

std::string StepGuard::judge(double loss, double gradient_norm) {
  const auto refuse = [&](std::string why) {
    ++skipped_;
    return why;
  };
  if (!std::isfinite(loss)) {
    return refuse(fmt::format("the loss is {}", loss));
  }
  if (!std::isfinite(gradient_norm)) {
    return refuse(fmt::format("the gradient's norm is {}", gradient_norm));
  }
  // A loss may be zero or below; such values are no spikes.
  const double log_loss = std::log(std::max(loss, 1e-30));
  const double log_norm = std::log(std::max(gradient_norm, 1e-30));
  if (const double limit = highest_usual(losses_, settings_.spike_factor); log_loss > limit) {
    return refuse(fmt::format("the loss is {:.3g}, usual is at most {:.3g}", loss, std::exp(limit)));
  }
  if (const double limit = highest_usual(norms_, settings_.spike_factor); log_norm > limit) {
    return refuse(fmt::format("the gradient's norm is {:.3g}, usual is at most {:.3g}", gradient_norm,
                              std::exp(limit)));
  }
  skipped_ = 0;
  remember(losses_, log_loss);
  remember(norms_, log_norm);
  return "";
}

nlohmann::json StepGuard::state() const {
  return {{"losses", losses_}, {"norms", norms_}, {"skipped", skipped_}};
}

void StepGuard::set_state(const nlohmann::json& state) {
  try {
    losses_ = state.at("losses").get<std::deque<double>>();
    norms_ = state.at("norms").get<std::deque<double>>();
    skipped_ = state.at("skipped");
  } catch (const nlohmann::json::exception& error) {
    fail("a checkpoint's guard cannot be read: {}", error.what());
  }
}

}  // namespace moga
