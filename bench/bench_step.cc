// Where the time of a forward pass of the diffusion transformer goes.
//
// Counters of a case: gflops (counted FLOPs over the fastest pass), of_sgemm, products, attention and other
// (shares of that pass: matrix products and convolutions; the attention kernel with its packing; all the
// rest). FLOPs are those of every matrix product (two a multiply-add) and of attention over groups.
#include <ATen/record_function.h>
#include <benchmark/benchmark.h>

#include <array>
#include <string_view>

#include "base/threads.h"
#include "bench/machine_limits.h"
#include "model/wan_dit.h"

namespace moga::bench {
namespace {

using torch::Tensor;

// Seconds in operations of a kind, those inside another of the same kind not counted again.
struct Clock {
  double seconds = 0;
  double start = 0;
  int depth = 0;

  void enter() {
    if (depth++ == 0) {
      start = now_seconds();
    }
  }
  void leave() {
    if (--depth == 0) {
      seconds += now_seconds() - start;
    }
  }
};
Clock products;
Clock attention;

Clock* clock_of(const at::RecordFunction& function) {
  constexpr std::array<std::string_view, 9> kProducts = {"aten::linear",      "aten::matmul", "aten::addmm",
                                                         "aten::mm",          "aten::bmm",    "aten::conv3d",
                                                         "aten::convolution", "aten::mv",     "aten::addmv"};
  const std::string_view name = function.name();
  if (name == "moga::cpu_attention") {
    return &attention;
  }
  return std::find(kProducts.begin(), kProducts.end(), name) != kProducts.end() ? &products : nullptr;
}

std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction& function) {
  if (Clock* clock = clock_of(function)) {
    clock->enter();
  }
  return nullptr;
}
void on_end(const at::RecordFunction& function, at::ObserverContext*) {
  if (Clock* clock = clock_of(function)) {
    clock->leave();
  }
}

// FLOPs of one forward pass of one film.
double count_flops(const DitConfig& c, const DitPlan& plan) {
  const auto L = static_cast<double>(plan.layout.tokens());
  const auto R = static_cast<double>(plan.captions * c.text_len);
  const auto C = static_cast<double>(c.dim);
  const auto F = static_cast<double>(c.ffn_dim);
  double pairs = plan.text.pairs();
  if (c.attention.kind == AttentionKind::kFull) {
    pairs += plan.visual.full.pairs();
  } else {
    // Routers with random weights group unevenly; even groups are the least that they can cost.
    pairs += plan.visual.windows.pairs() + plan.visual.frames.pairs() +
             L * L / static_cast<double>(c.attention.groups);
  }
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
  const auto pass = [&] { benchmark::DoNotOptimize(dit->forward(latent, time, captions, plan).data_ptr()); };
  limits().measure();
  pass();
  const auto handle =
      at::addGlobalCallback(at::RecordFunctionCallback(on_start, on_end)
                                .scopes({at::RecordScope::FUNCTION, at::RecordScope::USER_SCOPE}));
  double fastest = 1e30;
  double in_products = 0;
  double in_attention = 0;
  for (auto _ : state) {
    products = attention = Clock();
    const double start = now_seconds();
    pass();
    const double seconds = now_seconds() - start;
    state.SetIterationTime(seconds);
    if (seconds < fastest) {
      fastest = seconds;
      in_products = products.seconds;
      in_attention = attention.seconds;
    }
  }
  at::removeCallback(handle);
  limits().measure();
  const double gflops = count_flops(config, plan) / fastest * 1e-9;
  state.counters["gflops"] = gflops;
  state.counters["of_sgemm"] = gflops / limits().sgemm;
  state.counters["products"] = in_products / fastest;
  state.counters["attention"] = in_attention / fastest;
  state.counters["other"] = 1 - (in_products + in_attention) / fastest;
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
  const DitConfig toy = model_config("toy").dit;
  add("toy/moga/4096", toy, 16, 16, 16);
}

}  // namespace
}  // namespace moga::bench

int main(int argc, char** argv) {
  moga::tune_runtime(argv);
  moga::init_threads();
  at::set_num_threads(moga::thread_count());
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) {
    return 2;
  }
  moga::bench::add_all();
  benchmark::RunSpecifiedBenchmarks();
}
