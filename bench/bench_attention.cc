// How close attention over groups comes to what the machine can do.
//
// Counters of a case: gflops (of the fastest iteration: others were disturbed), of_fma_peak and of_sgemm (its
// ratio to the machine's limits, measured beside it). FLOPs are counted as 4 * pairs * D * N forward and 10
// backward, pairs being queries times keys summed over the segments; routing, sorting and packing are inside
// the time and not in the count.
#include <benchmark/benchmark.h>

#include <random>

#include "attention/film_layout.h"
#include "attention/visual_attention.h"
#include "base/threads.h"
#include "bench/benchmark_main.h"
#include "bench/machine_limits.h"
#include "bench/process_memory.h"
#include "kernels/cpu/grouped_attention_cpu.h"

namespace moga::bench {

using torch::Tensor;

struct Inputs {
  Tensor q, k, v;
};

Inputs make_inputs(int64_t tokens, int64_t heads, int64_t dim, torch::ScalarType type = torch::kFloat32) {
  torch::manual_seed(1);
  const auto draw = [&] { return torch::randn({tokens, heads, dim}).to(type); };
  return {draw(), draw(), draw()};
}

// Runs body() until the library is content; body returns the seconds that count, which are mostly all it
// took.
template <typename Body>
void run(benchmark::State& state, double flops, const Body& body) {
  limits().measure();
  body();  // threads, pages, scratch memory
  double fastest = 1e30;
  for (auto _ : state) {
    const double start = now_seconds();
    const double counted = body();
    const double seconds = counted > 0 ? counted : now_seconds() - start;
    state.SetIterationTime(seconds);
    fastest = std::min(fastest, seconds);
  }
  limits().measure();
  const double gflops = flops / fastest * 1e-9;
  state.counters["gflops"] = gflops;
  state.counters["of_fma_peak"] = gflops / limits().fma;
  state.counters["of_sgemm"] = gflops / limits().sgemm;
}

// FLOPs a byte that must move in any case: q, k, v and out, once each (backward: and their gradients).
void set_intensity(benchmark::State& state, double all_flops, const Inputs& x, double arrays) {
  const double bytes = arrays * static_cast<double>(x.q.numel() * x.q.element_size());
  state.counters["flops_per_byte"] = all_flops / bytes;
}

double flops(const Groups& groups, const Inputs& x, double a_pair) {
  return a_pair * groups.pairs() * static_cast<double>(x.q.size(1) * x.q.size(2));
}

void forward(benchmark::State& state, const Groups& groups, int64_t tokens, int64_t heads, int64_t dim,
             torch::ScalarType type = torch::kFloat32) {
  const c10::InferenceMode mode;
  const Inputs x = make_inputs(tokens, heads, dim, type);
  set_intensity(state, flops(groups, x, 4), x, 4);
  run(state, flops(groups, x, 4), [&] {
    benchmark::DoNotOptimize(grouped_attention(x.q, x.k, x.v, groups).out_LND.data_ptr());
    return 0.0;
  });
}

void backward(benchmark::State& state, const Groups& groups, int64_t tokens, int64_t heads, int64_t dim) {
  Inputs x = make_inputs(tokens, heads, dim);
  const Tensor dout = torch::randn_like(x.q);
  for (Tensor* t : {&x.q, &x.k, &x.v}) {
    t->requires_grad_(true);
  }
  set_intensity(state, flops(groups, x, 10), x, 8);
  run(state, flops(groups, x, 10), [&] {
    const Tensor out = grouped_attention(x.q, x.k, x.v, groups).out_LND;
    const double start = now_seconds();
    benchmark::DoNotOptimize(torch::autograd::grad({out}, {x.q, x.k, x.v}, {dout}));
    return now_seconds() - start;
  });
}

Groups full(int64_t tokens) {
  return to_groups(full_groups(tokens), torch::kCPU);
}

Groups groups_of(const Tensor& ids) {
  return groups_from_ids(ids, ids.max().item<int64_t>() + 1);
}

// Ids of groups of these sizes, dealt out at random.
Tensor random_ids(const std::vector<int64_t>& sizes) {
  std::vector<int64_t> ids;
  for (size_t g = 0; g < sizes.size(); ++g) {
    ids.insert(ids.end(), static_cast<size_t>(sizes[g]), static_cast<int64_t>(g));
  }
  std::shuffle(ids.begin(), ids.end(), std::mt19937(1));
  return torch::tensor(ids);
}

std::vector<int64_t> even(int64_t tokens, int64_t groups) {
  std::vector<int64_t> sizes(static_cast<size_t>(groups), tokens / groups);
  sizes.back() += tokens % groups;
  return sizes;
}

// Routing by a linear layer whose answer is known (a one-hot channel block of x), grouping, attention.
void routed(benchmark::State& state, int64_t tokens, int64_t group_count) {
  const c10::InferenceMode mode;
  const Inputs x = make_inputs(tokens, 12, 128);
  const Tensor ids = random_ids(even(tokens, group_count));
  Tensor hidden = torch::randn({tokens, 1536}) * 0.01;
  hidden.slice(1, 0, group_count).add_(torch::one_hot(ids, group_count));
  Router router(1536, group_count);
  router->linear->weight.zero_();
  router->linear->weight.slice(1, 0, group_count).copy_(torch::eye(group_count));
  set_intensity(state, flops(groups_of(ids), x, 4), x, 4);
  run(state, flops(groups_of(ids), x, 4), [&] {
    const Routing routing = router->forward(hidden);
    const Groups groups = groups_from_ids(routing.group_ids_L, group_count);
    benchmark::DoNotOptimize(grouped_attention(x.q, x.k, x.v, groups, routing.top_prob_L).out_LND.data_ptr());
    return 0.0;
  });
}

// The mean of routed, window and frame attention of a film of two shots.
void visual(benchmark::State& state, int64_t frames, int64_t rows, int64_t cols) {
  const c10::InferenceMode mode;
  FilmLayout layout;
  layout.frames = frames;
  layout.rows = rows;
  layout.cols = cols;
  layout.shot_starts = {0, frames / 2};
  MogaConfig config;
  config.kind = AttentionKind::kMoga;
  const StaticPlan plan = plan_static_groups(layout, config, 1, torch::kCPU);
  const Inputs x = make_inputs(layout.tokens(), 12, 128);
  Routing routing;
  routing.group_ids_L = random_ids(even(layout.tokens(), config.groups));
  routing.top_prob_L = torch::full({layout.tokens()}, 0.7F);
  const double pairs = plan.windows.pairs() + plan.frames.pairs() + groups_of(routing.group_ids_L).pairs();
  set_intensity(state, 4 * pairs * 12 * 128, x, 4);
  run(state, 4 * pairs * 12 * 128, [&] {
    benchmark::DoNotOptimize(visual_attention(x.q, x.k, x.v, plan, routing, config).data_ptr());
    return 0.0;
  });
}

// GB/s of a copy that no cache holds, reads and writes counted.
double copy_rate() {
  const c10::InferenceMode mode;
  const Tensor from = torch::ones({int64_t{1} << 26}), to = torch::empty_like(from);
  double fastest = 1e30;
  for (int i = 0; i < 6; ++i) {
    const double start = now_seconds();
    to.copy_(from);
    fastest = std::min(fastest, now_seconds() - start);
  }
  return 2e-9 * static_cast<double>(from.numel() * 4) / fastest;
}

// Peak memory beside inputs and output at 65,536 tokens.
void memory(benchmark::State& state) {
  const c10::InferenceMode mode;
  constexpr int64_t kTokens = 65536;
  const Inputs x = make_inputs(kTokens, 12, 128);
  const Groups groups = groups_of(random_ids(even(kTokens, 64)));
  double extra = 0;
  for (auto _ : state) {
    const double start = now_seconds();
    release_free_memory();  // or the result would lie in memory that is counted already
    forget_peak();
    const double before = process_bytes("VmRSS");
    const Tensor out = grouped_attention(x.q, x.k, x.v, groups).out_LND;
    extra = process_bytes("VmHWM") - before - static_cast<double>(out.numel()) * 4;
    state.SetIterationTime(now_seconds() - start);
  }
  state.counters["extra_mib"] = extra / (1 << 20);
}

void add(const std::string& name, const std::function<void(benchmark::State&)>& body, double seconds = 1.5) {
  benchmark::RegisterBenchmark(name.c_str(), [body](benchmark::State& state) { body(state); })
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond)
      ->MinTime(seconds);
}

void add_all() {
  for (const int64_t tokens : {4096, 8192}) {
    add("forward/" + std::to_string(tokens) + "/12x128",
        [=](auto& state) { forward(state, full(tokens), tokens, 12, 128); });
  }
  add("forward/4096/12x64", [](auto& state) { forward(state, full(4096), 4096, 12, 64); });
  add("forward/4096/12x128/bfloat16",
      [](auto& state) { forward(state, full(4096), 4096, 12, 128, torch::kBFloat16); });
  add("backward/4096/12x128", [](auto& state) { backward(state, full(4096), 4096, 12, 128); });
  add("backward/4096/12x64", [](auto& state) { backward(state, full(4096), 4096, 12, 64); });
  add("moga/8192/12x128/M5", [](auto& state) { routed(state, 8192, 5); });
  add("moga/8192/12x128/M5/backward",
      [](auto& state) { backward(state, groups_of(random_ids(even(8192, 5))), 8192, 12, 128); });
  // What the toy model has much of: heads of 32, groups of 1,024 and frames of 256 tokens.
  for (const int64_t groups : {4, 16}) {
    add("segments/4096/6x32/" + std::to_string(4096 / groups),
        [=](auto& state) { forward(state, groups_of(random_ids(even(4096, groups))), 4096, 6, 32); });
  }
  add("visual/8320/12x128", [](auto& state) { visual(state, 20, 16, 26); });
  // Uneven segments: a giant of 90 %, with the rest in groups of three.
  std::vector<int64_t> giant(1 + 273, 3);
  giant[0] = 7373;
  add("uneven/8192/12x128/giant",
      [giant](auto& state) { forward(state, groups_of(random_ids(giant)), 8192, 12, 128); });
  add("uneven/8192/12x128/halves", [](auto& state) {
    forward(state, groups_of(random_ids({4096, 2048, 1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 2})), 8192, 12,
            128);
  });
  add("memory/65536/12x128/M64", memory);
}

}  // namespace moga::bench

int main(int argc, char** argv) {
  if (!moga::bench::start(argc, argv)) {
    return 2;
  }
  benchmark::AddCustomContext("kernel_target", moga::cpu::attention_target());
  moga::bench::limits().measure();
  benchmark::AddCustomContext("blas", moga::bench::blas_core());
  benchmark::AddCustomContext("fma_peak_gflops", std::to_string(moga::bench::limits().fma));
  benchmark::AddCustomContext("copy_gbs", std::to_string(moga::bench::copy_rate()));
  benchmark::AddCustomContext("sgemm_gflops", std::to_string(moga::bench::limits().sgemm));
  moga::bench::add_all();
  benchmark::RunSpecifiedBenchmarks();
}
