// Rows to slots and back against plain loops, on the CPU and, where there is one, on the GPU.
#include "attention/slot_rows.h"

#include <gtest/gtest.h>

#include "attention/router.h"
#include "attention/segment_plan.h"
#include "attention/test_util.h"

namespace moga {
namespace {

using torch::Tensor;

// What scatter_slots() and scatter_slots_gradient() promise, in float64.
Tensor scatter_by_loops(const Tensor& x_SND, const Tensor& index, int64_t tokens, const Tensor& scale_L,
                        double factor) {
  Tensor out = torch::zeros({tokens, x_SND.size(1), x_SND.size(2)}, torch::kFloat64);
  for (int64_t s = 0; s < index.numel(); ++s) {
    const auto t = index[s].item<int64_t>();
    out[t] += factor * scale_L[t].item<double>() * x_SND[s].to(torch::kFloat64);
  }
  return out;
}

void expect_near(const Tensor& a, const Tensor& b, double relative) {
  const Tensor host = a.detach().to(torch::kCPU, torch::kFloat64);
  EXPECT_LE((host - b).norm().item<double>(), relative * b.norm().item<double>() + 1e-12);
}

void check_slots(const Groups& groups, int64_t tokens, torch::ScalarType type, double relative) {
  const torch::Device device = test_device();
  torch::manual_seed(11);
  constexpr int64_t kHeads = 2, kSize = 24;
  const int64_t slots = groups.q_index.numel();
  const auto draw = [&](int64_t rows) { return torch::randn({rows, kHeads, kSize}).to(type); };
  const Tensor x = draw(slots), dout = draw(tokens), into = draw(tokens), rows = draw(tokens);
  const Tensor scale = torch::rand({tokens}, torch::kFloat32);
  const Groups moved = test::on_device(groups, device);
  const SlotSide side = q_slot_side(moved, tokens);
  const auto on = [&](const Tensor& t) { return t.to(device, /*non_blocking=*/false, /*copy=*/true); };

  EXPECT_TRUE(gather_slots({{on(rows), &side}})[0].cpu().equal(rows.index_select(0, groups.q_index)));
  // Rows that are part of wider rows.
  const Tensor wide = on(torch::cat({rows, draw(tokens)}, 1));
  EXPECT_TRUE(gather_slots({{wide.narrow(1, 0, kHeads), &side}})[0].cpu().equal(
      rows.index_select(0, groups.q_index)));

  const Tensor expected = scatter_by_loops(x, groups.q_index, tokens, scale, 0.25);
  expect_near(scatter_slots(on(x), side, on(scale), 0.25), expected, relative);
  const Tensor sum = on(into);
  scatter_slots(on(x), side, on(scale), 0.25, sum, true);
  expect_near(sum, expected + into.to(torch::kFloat64), relative);
  scatter_slots(on(x), side, {}, 0.25, sum, false);
  expect_near(sum, scatter_by_loops(x, groups.q_index, tokens, torch::ones({tokens}), 0.25), relative);

  // The gradient by autograd of the definition.
  const Tensor x64 = x.to(torch::kFloat64).requires_grad_(true);
  const Tensor scale64 = scale.to(torch::kFloat64).requires_grad_(true);
  const Tensor product = 0.25 * x64 * scale64.index_select(0, groups.q_index).view({-1, 1, 1});
  torch::zeros({tokens, kHeads, kSize}, torch::kFloat64)
      .index_add(0, groups.q_index, product)
      .backward(dout.to(torch::kFloat64));
  const SlotGradient grad = scatter_slots_gradient(on(dout), on(x), side, on(scale), 0.25);
  expect_near(grad.x_SND, x64.grad(), relative);
  expect_near(grad.row_scale_L, scale64.grad(), relative);
}

TEST(SlotRows, MovesRowsOfPermutationsAndOfAnyIndex) {
  for (const auto& [type, relative] : {std::pair{torch::kFloat32, 1e-6}, std::pair{torch::kBFloat16, 0.01}}) {
    torch::manual_seed(2);
    check_slots(groups_from_ids(torch::randint(0, 3, {19}, torch::kInt64), 3), 19, type, relative);
    check_slots(to_groups(full_groups(7), torch::kCPU), 7, type, relative);
    for (int seed = 0; seed < 4; ++seed) {
      check_slots(test::on_device(test::random_groups(13, 11, seed), torch::kCPU), 13, type, relative);
    }
  }
}

TEST(SlotRows, AnInverseListsTheSlotsOfEachToken) {
  const SlotInverse inverse = invert_index(torch::tensor({3, 0, 3, 1}, torch::kInt64), 5);
  EXPECT_TRUE(inverse.starts.equal(torch::tensor({0, 1, 2, 2, 4, 4}, torch::kInt64)));
  EXPECT_TRUE(inverse.slots.equal(torch::tensor({1, 3, 0, 2}, torch::kInt64)));
}

TEST(SlotRows, RoutingOnTheDeviceIsThatOfTheCpu) {
  const torch::Device device = test_device();
  torch::manual_seed(5);
  Router router(24, 6);
  const Tensor x = torch::randn({203, 24});
  const Tensor weight = torch::randn({203}), weights = torch::randn({203, 6});
  const auto run = [&](const torch::Device& where) {
    router->to(where);
    router->zero_grad();
    const Tensor input = x.to(where, /*non_blocking=*/false, /*copy=*/true).requires_grad_(true);
    const Routing routing = router(input);
    ((routing.top_prob_L * weight.to(where)).sum() + (routing.probs_LM * weights.to(where)).sum()).backward();
    return std::make_pair(routing, input.grad());
  };
  const auto [cpu, cpu_grad] = run(torch::kCPU);
  const auto [routing, grad] = run(device);
  EXPECT_TRUE(routing.group_ids_L.cpu().equal(cpu.group_ids_L));
  expect_near(routing.probs_LM, cpu.probs_LM.to(torch::kFloat64), 1e-5);
  expect_near(routing.top_prob_L, cpu.top_prob_L.to(torch::kFloat64), 1e-5);
  expect_near(grad, cpu_grad.to(torch::kFloat64), 1e-5);
}

}  // namespace
}  // namespace moga
