// Walks from noise to a clean sample: Euler, DPM-Solver++ (2M, midpoint) and UniPC (bh2, second order, with
// corrector), all on the estimate of x_0. Pure functions over a denoiser; never a model.
//
// Sources: Lu et al., "DPM-Solver++", arXiv 2211.01095; Zhao et al., "UniPC", arXiv 2302.04867.
#pragma once

#include <torch/torch.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "diffusion/schedule.h"

namespace moga {

// A run between two steps: all that is needed to go on exactly.
struct SolverState {
  int64_t done = 0;                  // finished steps
  torch::Tensor x;                   // the sample; noise at the start
  torch::Tensor corrected;           // UniPC: the sample that the last predictor started from
  std::vector<torch::Tensor> clean;  // estimates of x_0 of the last steps, newest first, as many as are used

  // The solver's memory by name, without `x` (for saving), and back.
  std::map<std::string, torch::Tensor> memory() const;
  void set_memory(const std::map<std::string, torch::Tensor>& memory);
};

// One step. `v` is the prediction at state.x and schedule.timesteps[state.done]. Returns the estimate of x_0,
// x - sigma * v.
torch::Tensor solver_step(const FlowSchedule& schedule, SolverState& state, const torch::Tensor& v);

// v(x, timestep): the guided prediction for the current sample.
using Denoiser = std::function<torch::Tensor(const torch::Tensor& x, double timestep)>;
// Called after every step with the state and the estimate of x_0.
using StepCallback = std::function<void(const SolverState& state, const torch::Tensor& clean)>;

// The steps state.done .. end of `schedule`; returns the last sample.
torch::Tensor sample_flow(const Denoiser& denoise, SolverState state, const FlowSchedule& schedule,
                          const StepCallback& after_step = nullptr);

}  // namespace moga
