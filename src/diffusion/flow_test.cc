#include "diffusion/flow.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "io/safetensors.h"

namespace moga {
namespace {

TEST(Flow, ScheduleFallsFromOneToZero) {
  const FlowSchedule schedule = flow_schedule(10, 3);
  ASSERT_EQ(schedule.sigmas.size(), 11U);
  EXPECT_EQ(schedule.sigmas.front(), 1);
  EXPECT_EQ(schedule.sigmas.back(), 0);
  EXPECT_TRUE(std::is_sorted(schedule.sigmas.rbegin(), schedule.sigmas.rend()));
  EXPECT_EQ(schedule.timesteps[3], 874);  // 0.875 comes out a hair low in float64
  EXPECT_THROW(flow_schedule(0, 3), Error);
  EXPECT_THROW(flow_schedule(5, 0), Error);
}

TEST(Flow, StraightFlowIsSolvedExactlyByAnyNumberOfSteps) {
  torch::manual_seed(3);
  const auto wide = torch::kFloat64;
  const torch::Tensor clean = torch::randn({2, 3}, wide);
  const torch::Tensor noise = torch::randn({2, 3}, wide);
  for (const int64_t steps : {1, 4, 9}) {
    const auto v = [&](const torch::Tensor&, int64_t) { return noise - clean; };
    EXPECT_TRUE(euler_sample(v, noise, flow_schedule(steps, 5)).allclose(clean, 1e-6, 1e-6));
  }
}

TEST(Flow, PairsAndGuidance) {
  const torch::Tensor clean = torch::full({2, 2}, 1.0F);
  const torch::Tensor noise = torch::full({2, 2}, 3.0F);
  const FlowPair pair = make_flow_pair(clean, noise, torch::tensor({0.0F, 0.5F}));
  EXPECT_EQ(pair.noisy[0][0].item<float>(), 1);
  EXPECT_EQ(pair.noisy[1][0].item<float>(), 2);
  EXPECT_EQ(pair.target[0][0].item<float>(), 2);
  EXPECT_TRUE(guide(clean, noise, 1).equal(clean));
  EXPECT_EQ(guide(noise, clean, 2)[0][0].item<float>(), 5);
}

TEST(Flow, NoiseLevelsLieInsideAndShiftUp) {
  torch::manual_seed(4);
  for (const NoiseLevels kind : {NoiseLevels::kUniform, NoiseLevels::kLogitNormal}) {
    const torch::Tensor plain = draw_noise_levels(20000, kind, 1);
    EXPECT_GT(plain.min().item<float>(), 0);
    EXPECT_LT(plain.max().item<float>(), 1);
    EXPECT_NEAR(plain.mean().item<float>(), 0.5, 0.01);
    EXPECT_GT(draw_noise_levels(20000, kind, 3).mean().item<float>(), 0.6);
  }
}

TEST(Flow, GoldenEulerTrajectories) {
  const char* folder = std::getenv("MOGA_FIXTURES");
  const std::filesystem::path file =
      std::filesystem::path(folder != nullptr ? folder : MOGA_SOURCE_DIR "/../shared/fixtures/wan") /
      "sampler_io.safetensors";
  if (!std::filesystem::exists(file)) {
    GTEST_SKIP() << "no golden data at " << file;
  }
  const SafetensorsFile golden(file);
  for (const int shift : {3, 5, 8}) {
    for (const int steps : {4, 10, 20, 50}) {
      const std::string prefix = fmt::format("euler.shift{}.steps{}.", shift, steps);
      const FlowSchedule schedule = flow_schedule(steps, shift);
      EXPECT_TRUE(torch::tensor(schedule.timesteps).equal(golden.read(prefix + "timesteps"))) << prefix;
      const torch::Tensor trajectory = golden.read(prefix + "traj");
      const auto v = [](const torch::Tensor& x, int64_t timestep) {
        return 0.3 * x + std::sin(static_cast<double>(timestep) / 1000);
      };
      euler_sample(v, trajectory[0], schedule, 0,
                   [&](int64_t done, const torch::Tensor& x, const torch::Tensor&) {
                     EXPECT_TRUE(x.allclose(trajectory[done], 1e-4, 1e-4)) << prefix << " step " << done;
                   });
    }
  }
}

}  // namespace
}  // namespace moga
