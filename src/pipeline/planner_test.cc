#include "pipeline/planner.h"

#include <gmock/gmock.h>

#include <random>

#include "attention/static_groups.h"
#include "model/wan_dit.h"
#include "model/weights.h"
#include "pipeline/costs.h"

namespace moga {
namespace {

using ::testing::HasSubstr;

PlanRequest wan_film(int64_t frames, int64_t width = 832, int64_t height = 480) {
  PlanRequest request;
  request.model = model_config("wan-1.3b");
  request.frames = frames;
  request.width = width;
  request.height = height;
  return request;
}

TEST(Planner, TokensAreThePapers) {
  const std::vector<std::array<int64_t, 5>> rows = {
      {77, 832, 480, 20, 31200},   {157, 832, 480, 40, 62400},   {237, 832, 480, 60, 93600},
      {317, 832, 480, 80, 124800}, {477, 832, 480, 120, 187200}, {1441, 640, 640, 361, 577600}};
  for (const auto& [frames, width, height, latents, tokens] : rows) {
    const FilmPlan plan = plan_film(wan_film(frames, width, height));
    EXPECT_EQ(plan.layout.frames, latents);
    EXPECT_EQ(plan.layout.tokens(), tokens);
  }
}

TEST(Planner, SecondsGiveThePapersClips) {
  EXPECT_EQ(frames_for_seconds(5, 16), 77);
  EXPECT_EQ(frames_for_seconds(10, 16), 157);
  EXPECT_EQ(frames_for_seconds(15, 16), 237);
  EXPECT_EQ(frames_for_seconds(20, 16), 317);
  EXPECT_EQ(frames_for_seconds(30, 16), 477);
  EXPECT_EQ(frames_for_seconds(0.01, 16), 1);
  EXPECT_EQ(frames_for_seconds(0.5, 10), 5);
  EXPECT_THROW(frames_for_seconds(-1, 16), Error);
  EXPECT_THROW(frames_for_seconds(1e300, 1e300), Error);
  EXPECT_EQ(snap_frames(1), 1);
  EXPECT_EQ(snap_frames(156), 157);
  EXPECT_EQ(snap_frames(158), 157);
  EXPECT_EQ(snap_frames(159), 161);
  EXPECT_THROW(snap_frames(0), Error);
}

TEST(Planner, SparsityIsThePapers) {
  const std::vector<std::pair<int64_t, double>> rows = {{2, 0.4125}, {4, 0.6625}, {5, 0.7125}, {8, 0.7875}};
  for (const auto& [groups, sparsity] : rows) {
    PlanRequest request = wan_film(157);
    request.model.dit.attention.groups = groups;
    const FilmPlan plan = plan_film(request);
    EXPECT_NEAR(plan.sparsity, sparsity, 1e-12);
    // Four temporal groups of ten, each with two more key frames: 1/16 grows by a fifth.
    EXPECT_NEAR(plan.sparsity_exact, sparsity - 0.2 / 16, 1e-12);
  }
  PlanRequest full = wan_film(157);
  full.model.dit.attention.kind = AttentionKind::kFull;
  EXPECT_EQ(plan_film(full).sparsity, 0);
}

TEST(Planner, FullAttentionFlopsAreThePapers) {
  const std::vector<std::pair<int64_t, double>> rows = {
      {77, 0.260e15}, {157, 0.880e15}, {237, 1.858e15}, {317, 3.195e15}, {477, 6.945e15}};
  for (const auto& [frames, flops] : rows) {
    EXPECT_NEAR(plan_film(wan_film(frames)).full.total() / flops, 1, 0.003) << frames;
  }
}

TEST(Planner, MogaFlopsAreItsPairs) {
  const FilmPlan plan = plan_film(wan_film(477));
  const double pairs = 187200.0 * 187200.0;
  EXPECT_NEAR(plan.moga.attention, 30 * 4.0 * 1536 * (1 - plan.sparsity_exact) * pairs, 1e9);
  EXPECT_EQ(plan.moga.dense, plan.full.dense);
  EXPECT_EQ(plan.moga.router, 30 * 2.0 * 187200 * 1536 * 5);
  EXPECT_LT(plan.moga.total(), plan.full.total());
}

// The closed form against the index lists that attention really uses.
TEST(Planner, PairsEqualTheRealGroups) {
  std::mt19937 random(5);
  for (int round = 0; round < 60; ++round) {
    FilmLayout layout;
    layout.frames = 1 + random() % 24;
    layout.rows = 2 + random() % 6;
    layout.cols = 2 + random() % 6;
    for (int64_t f = 1; f < layout.frames; ++f) {
      if (random() % 5 == 0) {
        layout.shot_starts.push_back(f);
      }
    }
    MogaConfig attention;
    attention.windows.rows = 1 + random() % 2;
    attention.windows.cols = 1 + random() % 2;
    attention.windows.temporal_group = 1 + random() % 12;
    attention.windows.boundary = round % 2 == 0 ? Boundary::kNone : Boundary::kNeighbours;
    const PairCounts pairs = count_pairs(layout, attention);
    EXPECT_EQ(pairs.windows, window_groups(layout, attention.windows).pairs());
    EXPECT_EQ(pairs.frames, frame_groups(layout).pairs());
    EXPECT_EQ(pairs.full, full_groups(layout.tokens()).pairs());
  }
}

TEST(Planner, SegmentsAreCounted) {
  PlanRequest request = wan_film(157);
  request.shot_starts = even_shots(40, 3);
  const FilmPlan plan = plan_film(request);
  EXPECT_EQ(plan.segments_dynamic, 5);
  EXPECT_EQ(plan.segments_windows,
            window_groups(plan.layout, request.model.dit.attention.windows).segments());
  EXPECT_EQ(plan.segments_frames, 40);
}

TEST(Planner, BreakEvenIsTheFirstShorterFilm) {
  const FilmPlan plan = plan_film(wan_film(157));
  ASSERT_TRUE(plan.break_even_latent_frames);
  const int64_t latents = *plan.break_even_latent_frames;
  const auto saves = [](int64_t l) {
    const FilmPlan p = plan_film(wan_film(4 * (l - 1) + 1));
    return p.moga.total() < p.full.total();
  };
  EXPECT_TRUE(saves(latents));
  EXPECT_FALSE(saves(latents - 1));
  PlanRequest one_group = wan_film(157);
  one_group.model.dit.attention.groups = 1;
  EXPECT_FALSE(plan_film(one_group).break_even_latent_frames);
}

// Parameter totals of the published checkpoints.
TEST(Costs, ParametersAreThePublishedOnes) {
  const ModelConfig small = model_config("wan-1.3b");
  EXPECT_EQ(dit_parameters(small.dit) - router_parameters(small.dit), 1418996800);
  EXPECT_EQ(router_parameters(small.dit), 30 * (1536 * 5 + 5));
  const ModelConfig large = model_config("wan-14b");
  EXPECT_EQ(dit_parameters(large.dit) - router_parameters(large.dit), 14288491584);
  EXPECT_EQ(text_parameters(small.text), 5680910336);
  EXPECT_EQ(vae_parameters(small.vae), 126892531);
}

TEST(Planner, MemoryAndTimeFollow) {
  PlanRequest request = wan_film(157);
  const FilmPlan bf16 = plan_film(request);
  request.precision = Precision::kF32;
  const FilmPlan f32 = plan_film(request);
  EXPECT_EQ(f32.memory.weights_dit, 4.0 * static_cast<double>(f32.parameters_dit));
  EXPECT_EQ(f32.memory.weights_text, 2 * bf16.memory.weights_text);
  EXPECT_EQ(f32.memory.weights_vae, bf16.memory.weights_vae);
  // What a network of these sizes has, counted on it.
  double bytes = 0;
  {
    const BareWeights bare;
    for (const auto& [name, shape] : module_shapes(*WanDit(request.model.dit))) {
      bytes += static_cast<double>(c10::multiply_integers(shape)) * (stays_float32(name) ? 4 : 2);
    }
  }
  EXPECT_EQ(bf16.memory.weights_dit, bytes);
  EXPECT_GE(bf16.memory.generate, bf16.memory.weights_text);
  EXPECT_LT(bf16.memory.activations_train_checkpointed, bf16.memory.activations_train);
  EXPECT_LT(bf16.memory.activations_generate, bf16.memory.activations_train_checkpointed);
  const TimeEstimate time = estimate_time(bf16, 1e12);
  EXPECT_NEAR(time.forward_full, 880, 10);
  EXPECT_GT(time.generate, 100 * time.forward_moga);
}

TEST(Planner, ProcessesShareAFilm) {
  PlanRequest request = wan_film(477);
  EXPECT_FALSE(plan_film(request).processes);
  request.processes = 16;
  request.sequence = 8;
  const FilmPlan plan = plan_film(request);
  const ProcessCosts& costs = *plan.processes;
  ASSERT_EQ(costs.ranks.size(), 8U);
  int64_t tokens = 0;
  int64_t heads = 0;
  double attention = 0;
  double router = 0;
  double sent = 0;
  for (const RankCosts& rank : costs.ranks) {
    tokens += rank.tokens;
    heads += rank.heads;
    attention += rank.flops.attention;
    router += rank.flops.router;
    sent += rank.sent_forward;
  }
  EXPECT_EQ(tokens, 187200);
  EXPECT_EQ(heads, 12);
  EXPECT_NEAR(attention, plan.moga.attention, 1e-9 * attention);
  EXPECT_NEAR(router, plan.moga.router, 1e-9 * router);
  // Twelve heads on eight ranks: the first four have two.
  EXPECT_EQ(costs.ranks[3].heads, 2);
  EXPECT_EQ(costs.ranks[4].heads, 1);
  EXPECT_LT(costs.balance, 1);
  EXPECT_GT(costs.speedup, 4);
  EXPECT_LE(costs.speedup, 8);
  // q, k and v go out and the output comes back, seven eighths of it over the wire, in bfloat16, and beside
  // it ids, probabilities and the prediction.
  const double exchanged = 30.0 * 4 * 187200 * 1536 * 2 * 7 / 8;
  EXPECT_GT(sent, exchanged);
  EXPECT_LT(sent, 1.05 * exchanged);
  // Values and gradients stay whole, the rest is shared out by all sixteen.
  EXPECT_NEAR(costs.weights_train, 4.0 * static_cast<double>(plan.parameters_dit) * (2 + 5.0 / 16), 1);
  EXPECT_LT(costs.activations_train, plan.memory.activations_train / 5);

  EXPECT_THAT(plan_to_table(plan, 1e12), HasSubstr("16 processes: 8 share a film, 2 films at a time"));
  EXPECT_EQ(plan_to_json(plan, 1e12)["processes"]["ranks"].size(), 8U);

  request.sequence = 3;
  EXPECT_THAT([&] { plan_film(request); },
              testing::ThrowsMessage<Error>(HasSubstr("16 processes cannot be split into groups of 3")));
}

TEST(Planner, ProcessesThatDivideEvenlyAreBalanced) {
  PlanRequest request = wan_film(157);
  request.processes = request.sequence = 4;
  const ProcessCosts costs = *plan_film(request).processes;
  EXPECT_NEAR(costs.balance, 1, 1e-12);
  // Keys and values of the text are made by every rank.
  EXPECT_GT(costs.speedup, 3.8);
  EXPECT_LE(costs.speedup, 4);
}

TEST(Planner, BadFilmsAreErrors) {
  EXPECT_THROW(plan_film(wan_film(158)), Error);
  EXPECT_THROW(plan_film(wan_film(0)), Error);
  EXPECT_THROW(plan_film(wan_film(157, 830, 480)), Error);
  EXPECT_THROW(plan_film(wan_film(157, 1 << 30, 16)), Error);
  EXPECT_THROW(even_shots(4, 5), Error);
  PlanRequest request = wan_film(157);
  request.model.dit.attention.windows.rows = 31;
  EXPECT_THROW(plan_film(request), Error);
  request = wan_film(157);
  request.shot_starts = {0, 50};
  EXPECT_THROW(plan_film(request), Error);
}

TEST(Planner, ReportsHoldTheFigures) {
  const FilmPlan plan = plan_film(wan_film(157));
  const auto json = plan_to_json(plan, 1e12);
  EXPECT_EQ(json["latent_frames"], 40);
  EXPECT_EQ(json["tokens"], 62400);
  EXPECT_EQ(json["tokens_per_frame"], 1560);
  EXPECT_NEAR(json["sparsity"].get<double>(), 0.7125, 1e-12);
  EXPECT_EQ(json["flops_full"], plan.full.total());
  EXPECT_TRUE(plan_to_json(plan, {})["time"].is_null());
  const std::string table = plan_to_table(plan, 1e12);
  EXPECT_THAT(table, HasSubstr("62,400"));
  EXPECT_THAT(table, HasSubstr("71.25 %"));
  EXPECT_THAT(table, HasSubstr("880 TFLOP"));
  EXPECT_THAT(plan_to_table(plan_film(wan_film(477)), {}), HasSubstr("6.95 PFLOP"));
}

}  // namespace
}  // namespace moga
