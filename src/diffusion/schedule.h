// Solvers of the flow's ordinary differential equation, and the noise levels that each visits.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/config.h"

namespace moga {

// A solver and its schedule belong together: checkpoints of Wan2.1 are sampled with the official pair
// "unipc", while other programs' films are reproduced with the grids of diffusers.
enum class Solver {
  kEuler,           // first order; noise levels from 1
  kUniPc,           // UniPC, second order, with corrector; Wan2.1's default; noise levels from 0.999
  kDpmPp,           // DPM-Solver++ 2M, second order; Wan2.1's other one; noise levels from 1
  kUniPcDiffusers,  // UniPC with diffusers' noise levels, 1 - 1e-6 down to 0.001
  kEulerDiffusers,  // Euler with diffusers' noise levels, shifted twice, and timesteps that are not truncated
};
template <>
struct EnumNames<Solver> {
  static constexpr std::array<std::pair<Solver, const char*>, 5> kNames = {
      {{Solver::kEuler, "euler"},
       {Solver::kUniPc, "unipc"},
       {Solver::kDpmPp, "dpmpp"},
       {Solver::kUniPcDiffusers, "unipc_diffusers"},
       {Solver::kEulerDiffusers, "euler_diffusers"}}};
};

// s -> shift * s / (1 + (shift - 1) * s): spends more of a schedule at high noise for shift > 1 (SD3, Wan).
double shift_noise_level(double level, double shift);

struct FlowSchedule {
  Solver solver = Solver::kEuler;
  std::vector<double> sigmas;     // [steps + 1] noise levels, falling, the last 0
  std::vector<double> timesteps;  // [steps] what the model is told: 1000 * sigma, whole numbers (truncated)
                                  // for all but euler_diffusers

  int64_t steps() const { return static_cast<int64_t>(timesteps.size()); }
};

// Throws Error unless 1 <= steps <= 10000 and shift > 0.
FlowSchedule flow_schedule(Solver solver, int64_t steps, double shift);

}  // namespace moga
