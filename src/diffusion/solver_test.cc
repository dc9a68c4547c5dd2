#include "diffusion/solver.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace moga {
namespace {

constexpr std::array<Solver, 5> kSolvers = {Solver::kEuler, Solver::kUniPc, Solver::kDpmPp,
                                            Solver::kUniPcDiffusers, Solver::kEulerDiffusers};

TEST(Schedule, FallsToZeroForEverySolver) {
  for (const Solver solver : kSolvers) {
    for (const int64_t steps : {1, 2, 7, 50}) {
      const FlowSchedule schedule = flow_schedule(solver, steps, 3);
      EXPECT_EQ(schedule.steps(), steps);
      ASSERT_EQ(schedule.sigmas.size(), static_cast<size_t>(steps) + 1);
      EXPECT_LE(schedule.sigmas.front(), 1);
      EXPECT_GT(schedule.sigmas.front(), 0.99);
      EXPECT_EQ(schedule.sigmas.back(), 0);
      EXPECT_TRUE(std::is_sorted(schedule.sigmas.rbegin(), schedule.sigmas.rend()));
    }
    EXPECT_THROW(flow_schedule(solver, 0, 3), Error);
    EXPECT_THROW(flow_schedule(solver, 5, 0), Error);
    EXPECT_THROW(flow_schedule(solver, 10000, 1e6), Error);
  }
}

// 0.875 comes out a hair low in float64; fused multiply-adds would give 499 and 249 in the other two.
TEST(Schedule, TruncatesFloat64ProductsThatWereNotFused) {
  EXPECT_EQ(flow_schedule(Solver::kDpmPp, 10, 3).timesteps[3], 874);
  EXPECT_EQ(flow_schedule(Solver::kDpmPp, 20, 3).timesteps[15], 500);
  EXPECT_EQ(flow_schedule(Solver::kDpmPp, 50, 8).timesteps[48], 250);
}

// With v = noise - x_0 the way is a straight line, which every solver must follow to its end.
TEST(Solver, StraightFlowIsSolvedExactlyByAnyNumberOfSteps) {
  torch::manual_seed(3);
  const torch::Tensor clean = torch::randn({2, 3}, torch::kFloat64);
  const torch::Tensor noise = torch::randn({2, 3}, torch::kFloat64);
  for (const Solver solver : kSolvers) {
    for (const int64_t steps : {1, 2, 3, 9}) {
      const FlowSchedule schedule = flow_schedule(solver, steps, 5);
      const double start = schedule.sigmas.front();
      SolverState state;
      state.x = (1 - start) * clean + start * noise;
      const auto v = [&](const torch::Tensor&, double) { return noise - clean; };
      EXPECT_TRUE(sample_flow(v, state, schedule).allclose(clean, 1e-5, 1e-5))
          << enum_name(solver) << " " << steps;
    }
  }
}

// Against a curved flow's finely stepped end: second order pays.
TEST(Solver, SecondOrderIsNearerThanEuler) {
  const torch::Tensor noise = torch::linspace(-2, 2, 9, torch::kFloat64);
  const auto v = [](const torch::Tensor& x, double t) { return x.sin() + std::cos(t / 300); };
  const auto end = [&](Solver solver, int64_t steps) {
    SolverState state;
    state.x = noise;
    return sample_flow(v, state, flow_schedule(solver, steps, 1));
  };
  const torch::Tensor exact = end(Solver::kEuler, 4000);
  const auto error = [&](Solver solver) { return (end(solver, 12) - exact).abs().max().item<double>(); };
  EXPECT_LT(error(Solver::kDpmPp), 0.5 * error(Solver::kEuler));
  EXPECT_LT(error(Solver::kUniPc), 0.5 * error(Solver::kEuler));
}

TEST(Solver, GoesOnBitForBitFromItsMemory) {
  torch::manual_seed(5);
  const torch::Tensor noise = torch::randn({4, 5});
  const auto v = [](const torch::Tensor& x, double t) { return 0.3 * x.sin() + t / 1000; };
  for (const Solver solver : kSolvers) {
    const FlowSchedule schedule = flow_schedule(solver, 6, 3);
    std::vector<SolverState> states;
    SolverState start;
    start.x = noise;
    const torch::Tensor whole =
        sample_flow(v, start, schedule, [&](const SolverState& state, const torch::Tensor&) {
          SolverState saved;
          saved.done = state.done;
          saved.x = state.x.clone();
          std::map<std::string, torch::Tensor> memory;
          for (const auto& [name, tensor] : state.memory()) {
            memory[name] = tensor.clone();
          }
          saved.set_memory(memory);
          states.push_back(saved);
        });
    ASSERT_EQ(states.size(), 6U);
    for (const SolverState& state : states) {
      EXPECT_TRUE(sample_flow(v, state, schedule).equal(whole)) << enum_name(solver) << " " << state.done;
    }
    EXPECT_THROW(solver_step(schedule, states.back(), whole), Error);
  }
}

}  // namespace
}  // namespace moga
