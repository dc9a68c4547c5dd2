#include "diffusion/schedule.h"

#include <cmath>

#include "base/error.h"

namespace moga {

double shift_noise_level(double level, double shift) {
  return shift * level / (1 + (shift - 1) * level);
}

namespace {

// Where a solver's even grid begins and ends, before the shift.
struct Grid {
  double start;
  double end;
};

Grid grid_of(Solver solver) {
  switch (solver) {
    case Solver::kUniPc:
      return {static_cast<double>(0.999F), 0};  // the reference stores its bounds as float32
    case Solver::kUniPcDiffusers:
      return {1, 0.001};
    default:
      return {1, 0};
  }
}

// Training's smallest and largest timestep, shifted, with even steps between them, then shifted once more.
void fill_euler_diffusers(FlowSchedule& schedule, int64_t steps, double shift) {
  const double last = shift_noise_level(0.001, shift);
  for (int64_t i = 0; i < steps; ++i) {
    const double share = steps == 1 ? 0 : static_cast<double>(i) / static_cast<double>(steps - 1);
    const double sigma = shift_noise_level(1 + (last - 1) * share, shift);
    schedule.sigmas.push_back(sigma);
    schedule.timesteps.push_back(sigma * 1000);
  }
}

}  // namespace

FlowSchedule flow_schedule(Solver solver, int64_t steps, double shift) {
  MOGA_CHECK(steps >= 1 && steps <= 10000, "expected 1 to 10000 denoising steps, found {}", steps);
  MOGA_CHECK(shift > 0 && std::isfinite(shift), "the flow shift must be positive, found {}", shift);
  FlowSchedule schedule;
  schedule.solver = solver;
  if (solver == Solver::kEulerDiffusers) {
    fill_euler_diffusers(schedule, steps, shift);
  } else {
    const Grid grid = grid_of(solver);
    const double step = (grid.end - grid.start) / static_cast<double>(steps);
    for (int64_t i = 0; i < steps; ++i) {
      double sigma = shift_noise_level(grid.start + static_cast<double>(i) * step, shift);
      if (solver == Solver::kUniPcDiffusers && i == 0 && std::abs(sigma - 1) < 1e-6) {
        sigma -= 1e-6;  // at 1 the logarithm of the signal-to-noise ratio is infinite
      }
      schedule.sigmas.push_back(sigma);
      schedule.timesteps.push_back(std::trunc(sigma * 1000));
    }
  }
  schedule.sigmas.push_back(0);
  for (size_t i = 1; i < schedule.sigmas.size(); ++i) {
    MOGA_CHECK(static_cast<float>(schedule.sigmas[i]) < static_cast<float>(schedule.sigmas[i - 1]),
               "{} steps with a flow shift of {} are too close to each other for float32", steps, shift);
  }
  return schedule;
}

}  // namespace moga
