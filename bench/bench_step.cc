// Where the time of a forward pass of the diffusion transformer goes.
//
// Counters of a case: gflops (counted FLOPs over the fastest pass), of_sgemm, products, attention and other
// (shares of that pass: matrix products and convolutions; the attention kernel with its packing; all the
// rest). FLOPs are those of every matrix product (two a multiply-add) and of attention over the groups that
// the routers, whose weights are random, make.
#include <benchmark/benchmark.h>

#include "bench/benchmark_main.h"
#include "bench/machine_limits.h"
#include "bench/operation_clocks.h"
#include "bench/visual_pairs.h"
#include "model/wan_dit.h"

namespace moga::bench {
namespace {

using torch::Tensor;

// FLOPs of one forward pass of one film, which routed so.
double count_flops(const DitConfig& c, const DitPlan& plan, const std::vector<Routing>& routing) {
  const auto L = static_cast<double>(plan.layout.tokens());
  const auto R = static_cast<double>(plan.captions * c.text_len);
  const auto C = static_cast<double>(c.dim);
  const auto F = static_cast<double>(c.ffn_dim);
  const double pairs = plan.text.pairs() + visual_pairs(c, plan.visual, routing);
  const double block = 2 * L * (6 * C * C + 2 * C * F) + 4 * R * C * C + 4 * pairs * C;
  const double ends = 2 * L * C * static_cast<double>(4 * (c.in_channels + c.out_channels)) +
                      2 * R * C * (static_cast<double>(c.text_dim) + C);
  return block * static_cast<double>(c.layers) + ends;
}

void step(benchmark::State& state, DitConfig config, int64_t frames, int64_t rows, int64_t cols) {
  torch::manual_seed(1);
  const c10::InferenceMode mode;
  WanDit dit(config);
  FilmLayout layout;
  layout.frames = frames;
  layout.rows = rows;
  layout.cols = cols;
  const DitPlan plan = plan_dit({layout}, GlobalText::kNone, config, torch::kCPU);
  const Tensor latent = torch::randn({1, config.in_channels, frames, 2 * rows, 2 * cols});
  const Tensor captions =
      torch::randn({1, plan.captions, std::min<int64_t>(64, config.text_len), config.text_dim});
  const Tensor time = torch::full({1}, 500.0F);
  const auto pass = [&] {
    benchmark::DoNotOptimize(dit->forward(latent, time, captions, plan).data_ptr());
    return 0.0;
  };
  limits().measure();
  DitTrace trace;
  dit->forward(latent, time, captions, plan, &trace);
  const FastestPass fastest = run_clocked(state, pass);
  limits().measure();
  const double gflops = count_flops(config, plan, trace.routing) / fastest.seconds * 1e-9;
  state.counters["gflops"] = gflops;
  state.counters["of_sgemm"] = gflops / limits().sgemm;
}

void add(const std::string& name, const DitConfig& config, int64_t frames, int64_t rows, int64_t cols) {
  const auto body = [=](benchmark::State& state) { step(state, config, frames, rows, cols); };
  benchmark::RegisterBenchmark(name.c_str(), body)
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond)
      ->MinTime(2);
}

void add_all() {
  DitConfig slice = model_config("wan-1.3b").dit;
  slice.layers = 4;
  slice.attention.kind = AttentionKind::kMoga;
  add("wan-1.3b/4-layers/moga/4680", slice, 3, 30, 52);
  add("wan-1.3b/4-layers/moga/7800", slice, 5, 30, 52);
  slice.attention.kind = AttentionKind::kFull;
  add("wan-1.3b/4-layers/full/4680", slice, 3, 30, 52);
  DitConfig whole = model_config("wan-1.3b").dit;  // all 30 blocks, one latent frame: 5.7 GB of weights
  whole.attention.kind = AttentionKind::kFull;
  add("wan-1.3b/full/1560", whole, 1, 30, 52);
  const DitConfig toy = model_config("toy").dit;
  add("toy/moga/4096", toy, 16, 16, 16);
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
