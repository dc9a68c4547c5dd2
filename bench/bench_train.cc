// Where the time of a training step goes, and how much memory it takes beside what `moga plan` says.
//
// A step is what the trainer does: loss (flow and balance), backward pass, clipping, AdamW and the moving
// average. Counters of a case, of its fastest step (fastest_ms): of_sgemm (counted FLOPs a second over
// SGEMM's rate); products, attention, optimizer and other (shares of the time; other is the rest);
// tensors_gib and peak_gib (the most at once from weights to the last moment, counted by libtorch's allocator
// and by the kernel as resident memory) and planned_gib.
#include <benchmark/benchmark.h>

#include "bench/benchmark_main.h"
#include "bench/machine_limits.h"
#include "bench/operation_clocks.h"
#include "bench/process_memory.h"
#include "distributed/sharded_parameters.h"
#include "model/tensor_memory.h"
#include "pipeline/costs.h"
#include "pipeline/planner.h"
#include "training/dit_loss.h"
#include "training/flat_parameters.h"
#include "training/optimizer.h"

namespace moga::bench {
namespace {

using torch::Tensor;

// FLOPs of a step of one film whose layers attend `pairs` (query, key) pairs each. The backward pass of a
// product is two (no gradient is made for latents and captions), that of attention two and a half.
double count_flops(const FilmPlan& film, double pairs, bool recompute) {
  const DitConfig& dit = film.request.model.dit;
  DitConfig ends = dit;
  ends.layers = 0;
  const auto tokens = static_cast<double>(film.layout.tokens());
  const auto captions = static_cast<double>(film.layout.shots());
  const auto rows = static_cast<double>(dit.text_len);
  const auto width = static_cast<double>(dit.dim);
  const double attention = attention_flops(dit, pairs + tokens * rows);
  const double around = dit_dense_flops(ends, tokens, captions, 1);
  const double products = film.moga.dense - attention_flops(dit, tokens * rows) + film.moga.router;
  const double no_gradient = 2 * width *
                             (4 * tokens * static_cast<double>(dit.in_channels) +
                              captions * rows * static_cast<double>(dit.text_dim));
  const double again = recompute ? products - around + attention : 0;
  return 3 * products - no_gradient + 3.5 * attention + again;
}

struct Case {
  const char* name;
  const char* model;
  int64_t layers;  // 0: all
  int64_t frames;
  int64_t width;
  int64_t height;
  bool recompute;
};

void step(benchmark::State& state, const Case& which) {
  torch::manual_seed(1);
  PlanRequest request;
  request.model = model_config(which.model);
  if (which.layers > 0) {
    request.model.dit.layers = which.layers;
  }
  request.model.dit.attention.kind = AttentionKind::kMoga;
  request.frames = which.frames;
  request.width = which.width;
  request.height = which.height;
  request.precision = Precision::kF32;
  const FilmPlan film = plan_film(request);
  const DitConfig& sizes = film.request.model.dit;
  const FilmLayout& layout = film.layout;
  limits().measure();
  release_free_memory();
  const double resident_before = process_bytes("VmRSS");
  TensorMemory memory;

  WanDit dit(sizes);
  dit->recompute_blocks(which.recompute);
  FlatParameters flat({{"", dit.get()}}, torch::kCPU);
  ShardedParameters shares(flat.values(), flat.parameters(), nullptr);
  Optimizer optimizer(shares.share(), {});
  const TrainConfig config;
  DitBatch batch;
  batch.plan = plan_dit({layout}, GlobalText::kNone, sizes, torch::kCPU);
  batch.clean_BZFHW = torch::randn({1, sizes.in_channels, layout.frames, 2 * layout.rows, 2 * layout.cols});
  batch.noise_BZFHW = torch::randn_like(batch.clean_BZFHW);
  batch.levels_B = torch::full({1}, 0.5);
  const Tensor text = torch::randn({1, batch.plan.captions, sizes.text_len, sizes.text_dim});
  double sparsity = 0;
  const auto pass = [&] {
    flat.zero_gradients();
    {
      StepResult result = dit_loss(config, dit, text, batch);
      result.loss.backward();
      for (const auto& [name, value] : result.metrics) {
        sparsity = name == "sparsity" ? value.item<double>() : sparsity;
      }
    }
    const double start = now_seconds();
    shares.clip_gradients(config.clip_norm);
    optimizer.step(1e-5);
    return now_seconds() - start;
  };
  pass();  // moments, first touch of memory, scratch
  memory.forget_peak();
  forget_peak();
  const FastestPass fastest = run_clocked(state, pass);
  state.counters["fastest_ms"] = 1e3 * fastest.seconds;
  state.counters["tensors_gib"] = static_cast<double>(memory.peak()) / kGib;
  state.counters["peak_gib"] = (process_bytes("VmHWM") - resident_before) / kGib;
  state.counters["planned_gib"] =
      (film.memory.weights_train +
       (which.recompute ? film.memory.activations_train_checkpointed : film.memory.activations_train)) /
      kGib;
  for (int i = 0; i < 3; ++i) {
    limits().measure();
  }
  const double pairs = (1 - sparsity) * film.pairs.full;
  state.counters["gflops"] = count_flops(film, pairs, which.recompute) / fastest.seconds * 1e-9;
  state.counters["of_sgemm"] = state.counters["gflops"] / limits().sgemm;
  state.counters["optimizer"] = fastest.part / fastest.seconds;
}

void add_all() {
  static constexpr std::array<Case, 4> kCases = {
      {{"toy/moga/4096", "toy", 0, 61, 256, 256, false},
       {"toy/moga/4096/recompute", "toy", 0, 61, 256, 256, true},
       {"wan-1.3b/4-layers/moga/4680", "wan-1.3b", 4, 9, 832, 480, false},
       {"wan-1.3b/4-layers/moga/4680/recompute", "wan-1.3b", 4, 9, 832, 480, true}}};
  for (const Case& which : kCases) {
    benchmark::RegisterBenchmark(which.name, [which](benchmark::State& state) { step(state, which); })
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond)
        ->Iterations(which.layers == 0 ? 5 : 1);
  }
}

}  // namespace
}  // namespace moga::bench

int main(int argc, char** argv) {
  if (!moga::bench::start(argc, argv)) {
    return 2;
  }
  moga::bench::add_all();
  benchmark::RunSpecifiedBenchmarks();
}
