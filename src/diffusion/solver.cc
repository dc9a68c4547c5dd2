// lambda = ln(1 - sigma) - ln(sigma), half the logarithm of the signal-to-noise ratio, is -infinity at sigma
// 1 and +infinity at 0. The formulas below rely on IEEE infinities there: 1 / inf = 0, exp(-inf) = 0.
#include "diffusion/solver.h"

#include <cmath>
#include <limits>

#include "base/error.h"

static_assert(std::numeric_limits<double>::is_iec559, "the solvers need infinities");

namespace moga {

using torch::Tensor;

std::map<std::string, Tensor> SolverState::memory() const {
  std::map<std::string, Tensor> memory;
  if (corrected.defined()) {
    memory["corrected"] = corrected;
  }
  for (size_t i = 0; i < clean.size(); ++i) {
    memory["clean" + std::to_string(i)] = clean[i];
  }
  return memory;
}

void SolverState::set_memory(const std::map<std::string, Tensor>& memory) {
  const auto found = memory.find("corrected");
  corrected = found != memory.end() ? found->second : Tensor();
  clean.clear();
  for (auto it = memory.find("clean0"); it != memory.end();
       it = memory.find("clean" + std::to_string(clean.size()))) {
    clean.push_back(it->second);
  }
}

namespace {

// The reference keeps its noise levels as float32.
double level(const FlowSchedule& schedule, int64_t i) {
  return static_cast<double>(static_cast<float>(schedule.sigmas[static_cast<size_t>(i)]));
}

double log_snr(double sigma) {
  return std::log(1 - sigma) - std::log(sigma);
}

// From noise level `from` to `to`: x' = ratio * x + weight * (estimate of x_0).
struct Move {
  Move(double from, double to)
      : h(log_snr(to) - log_snr(from)), b(std::exp(-h) - 1), ratio(to / from), weight(-(1 - to) * b) {}
  double h;
  double b;
  double ratio;
  double weight;
};

Tensor dpmpp_step(const FlowSchedule& schedule, const SolverState& state, const Tensor& clean) {
  const int64_t i = state.done;
  const Move move(level(schedule, i), level(schedule, i + 1));
  if (i == 0 || i + 1 == schedule.steps()) {
    return move.ratio * state.x + move.weight * clean;
  }
  const double r = (log_snr(level(schedule, i)) - log_snr(level(schedule, i - 1))) / move.h;
  return move.ratio * state.x + move.weight * (clean + 0.5 / r * (clean - state.clean.at(0)));
}

// Order of the predictor of step i: the first has no history, the last would look beyond the end.
int64_t unipc_order(const FlowSchedule& schedule, int64_t i) {
  return std::min<int64_t>({2, schedule.steps() - i, i + 1});
}

// The sample at step i > 0, corrected with the estimate of x_0 that was made there.
Tensor unipc_correct(const FlowSchedule& schedule, const SolverState& state, const Tensor& clean) {
  const int64_t i = state.done;
  const Move move(level(schedule, i - 1), level(schedule, i));
  const Tensor& before = state.clean.at(0);
  const Tensor base = move.ratio * state.corrected + move.weight * before;
  if (unipc_order(schedule, i - 1) == 1) {
    return base + move.weight * 0.5 * (clean - before);
  }
  // rho solves rho1 + rho2 = k1 / b, r rho1 + rho2 = 2 k2 / b.
  const double r = (log_snr(level(schedule, i - 2)) - log_snr(level(schedule, i - 1))) / move.h;
  const double k1 = move.b / -move.h - 1;
  const double k2 = k1 / -move.h - 0.5;
  const double rho1 = (2 * k2 - k1) / move.b / (r - 1);
  const double rho2 = k1 / move.b - rho1;
  return base + move.weight * (rho1 / r * (state.clean.at(1) - before) + rho2 * (clean - before));
}

Tensor unipc_predict(const FlowSchedule& schedule, const SolverState& state, const Tensor& clean) {
  const int64_t i = state.done;
  const Move move(level(schedule, i), level(schedule, i + 1));
  Tensor base = move.ratio * state.corrected + move.weight * clean;
  if (unipc_order(schedule, i) == 1) {
    return base;
  }
  const double r = (log_snr(level(schedule, i - 1)) - log_snr(level(schedule, i))) / move.h;
  return base + move.weight * 0.5 / r * (state.clean.at(0) - clean);
}

void remember(SolverState& state, const Tensor& clean, size_t count) {
  state.clean.insert(state.clean.begin(), clean);
  state.clean.resize(std::min(state.clean.size(), count));
}

}  // namespace

Tensor solver_step(const FlowSchedule& schedule, SolverState& state, const Tensor& v) {
  MOGA_CHECK(state.done >= 0 && state.done < schedule.steps(), "step {} of a schedule of {} steps",
             state.done, schedule.steps());
  const int64_t i = state.done;
  Tensor clean = state.x - level(schedule, i) * v;
  switch (schedule.solver) {
    case Solver::kEuler:
    case Solver::kEulerDiffusers:
      state.x = state.x + (level(schedule, i + 1) - level(schedule, i)) * v;
      break;
    case Solver::kDpmPp:
      state.x = dpmpp_step(schedule, state, clean);
      remember(state, clean, 1);
      break;
    case Solver::kUniPc:
    case Solver::kUniPcDiffusers:
      state.corrected = i == 0 ? state.x : unipc_correct(schedule, state, clean);
      state.x = unipc_predict(schedule, state, clean);
      remember(state, clean, 2);
      break;
  }
  ++state.done;
  return clean;
}

Tensor sample_flow(const Denoiser& denoise, SolverState state, const FlowSchedule& schedule,
                   const StepCallback& after_step) {
  while (state.done < schedule.steps()) {
    const Tensor v = denoise(state.x, schedule.timesteps[static_cast<size_t>(state.done)]);
    const Tensor clean = solver_step(schedule, state, v);
    if (after_step) {
      after_step(state, clean);
    }
  }
  return state.x;
}

}  // namespace moga
