// One visual-attention layer and one denoising step of the 1.3B model under Ulysses sequence parallelism, a
// process a GPU: times, memory, and whether the step's prediction is that of one GPU. A table for people,
// JSON for documents.
//
//   bench_cuda_processes --processes 4
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <fmt/format.h>
#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <optional>

#include "base/threads.h"
#include "bench/cuda_networks.h"
#include "bench/cuda_report.h"
#include "bench/cuda_timing.h"
#include "distributed/launcher.h"

namespace moga::bench {
namespace {

using nlohmann::json;
using torch::Tensor;
using World = std::shared_ptr<Communicator>;

struct Options {
  int64_t processes = 2;
  std::vector<std::string> layers = {"120:5", "371:20"};
  std::vector<std::string> steps = {"120:0", "120:5", "371:20"};
  bool alone = true;
  int repeats = 3;
  std::string json_file;
};

// Of the slowest rank, and the largest memory. As many runs on every rank, since they wait for each other;
// the first warms up.
GpuTime time_on_ranks(const World& world, int repeats, const std::function<void()>& body) {
  torch::cuda::synchronize();
  c10::cuda::CUDACachingAllocator::resetPeakStats(c10::cuda::current_device());
  std::vector<double> times;
  std::vector<double> host;
  for (int i = 0; i <= repeats; ++i) {
    world->barrier("start");
    GpuEvent begin;
    GpuEvent end;
    begin.record();
    const auto start = std::chrono::steady_clock::now();
    body();
    const std::chrono::duration<double, std::milli> queueing = std::chrono::steady_clock::now() - start;
    end.record();
    const double ms = end.milliseconds_since(begin);
    if (i > 0) {
      times.push_back(ms);
      host.push_back(queueing.count());
    }
  }
  const Tensor mine =
      torch::tensor({median(times), median(host), peak_gigabytes()}, torch::kFloat64).view({1, 3});
  const Tensor all =
      world->all_gather(mine, std::vector<int64_t>(static_cast<size_t>(world->size()), 1), "times");
  const Tensor most = std::get<0>(all.max(0));
  return {most[0].item<double>(), most[1].item<double>(), repeats, most[2].item<double>()};
}

void bench_layer(const Options& options, const std::string& which, const World& world, Report* report) {
  const auto [frames, groups] = parse_case(which);
  const MogaConfig config = attention_config(groups);
  const FilmLayout film = film_of(frames);
  const int64_t tokens = film.tokens();
  StaticPlan plan = plan_static_groups(film, config, 1, torch::kCUDA);
  const auto sequence = std::make_shared<const SequenceParallel>(world, 1, tokens, kHeads);
  plan.sequence = sequence;
  const auto half = gpu(torch::kBFloat16);
  torch::manual_seed(2);
  Router router(kHeads * kHeadSize, config.groups);
  router->to(torch::kCUDA, torch::kBFloat16);
  torch::manual_seed(static_cast<uint64_t>(10 + world->rank()));
  std::vector<Tensor> qkv;
  for (int i = 0; i < 3; ++i) {
    qkv.push_back(torch::randn({sequence->local_tokens(), kHeads, kHeadSize}, half));
  }
  const Tensor hidden = torch::randn({sequence->local_tokens(), kHeads * kHeadSize}, half);
  const Tensor dout = torch::randn_like(qkv[0]);
  const auto route = [&] { return groups == 0 ? Routing() : router(hidden); };
  double pairs = static_cast<double>(tokens) * static_cast<double>(tokens);
  double exchange_ms = 0;
  {
    const torch::NoGradGuard guard;
    const Routing routing = route();
    if (groups > 0) {
      pairs = plan.windows.pairs() + plan.frames.pairs() +
              groups_from_ids(sequence->gather_ids(routing.group_ids_L), groups).pairs();
    }
    // Attention that costs nothing leaves what goes from GPU to GPU.
    exchange_ms =
        time_on_ranks(world, options.repeats, [&] {
          sequence->attend(qkv[0], qkv[1], qkv[2], routing,
                           [](const Tensor& q, const Tensor&, const Tensor&, const Routing&) { return q; });
        }).ms;
  }
  for (const bool backward : {false, true}) {
    const torch::AutoGradMode gradients(backward);
    for (Tensor& x : qkv) {
      x = x.detach().requires_grad_(backward);
    }
    const GpuTime time = time_on_ranks(world, options.repeats, [&] {
      const Tensor out = visual_attention(qkv[0], qkv[1], qkv[2], plan, route(), config);
      if (backward) {
        for (const Tensor& x : qkv) {
          x.mutable_grad() = Tensor();
        }
        out.backward(dout);
      }
    });
    if (report != nullptr) {
      json row = row_of("layer", tokens, case_name(groups), backward ? "forward+backward" : "forward", time);
      row["gpus"] = world->size();
      if (!backward) {
        row["exchange_ms"] = exchange_ms;
      }
      report->add(std::move(row), attention_flops(pairs, backward));
    }
  }
}

void bench_step(const Options& options, const std::string& which, const World& world, Report* report) {
  const auto [frames, groups] = parse_case(which);
  const c10::InferenceMode mode;
  Network net = make_network(frames, groups, torch::kBFloat16, world);
  const auto forward = [&](const DitPlan& plan, DitTrace* trace) {
    return net.dit->forward(net.latent, net.timestep, net.captions, plan, trace);
  };
  DitTrace trace;
  const Tensor out = forward(net.plan, &trace);
  const double flops = step_flops(net, visual_pairs(net, trace.routing));
  trace = {};
  const GpuTime time = time_on_ranks(world, options.repeats, [&] { forward(net.plan, nullptr); });
  c10::cuda::CUDACachingAllocator::emptyCache();
  // One GPU has everything, while the others wait.
  if (report != nullptr) {
    json row = row_of("denoising step", net.plan.layout.tokens(), case_name(groups), "forward", time);
    row["gpus"] = world->size();
    if (options.alone) {
      const DitPlan plan = plan_dit({net.plan.layout}, GlobalText::kNone, net.dit->config(), torch::kCUDA);
      const Tensor expected = forward(plan, nullptr);
      const GpuTime one = time_on_gpu(1, [&] { forward(plan, nullptr); });
      row["one_gpu_ms"] = one.ms;
      row["one_gpu_peak_gb"] = one.peak_gb;
      row["speedup"] = one.ms / time.ms;
      row["difference"] =
          ((out - expected).square().mean().sqrt() / expected.square().mean().sqrt()).item<double>();
      row["largest_difference"] = ((out - expected).abs().max() / expected.abs().max()).item<double>();
    }
    report->add(std::move(row), flops);
  }
  world->barrier("alone");
}

int run(const Options& options) {
  const auto gpus = static_cast<int64_t>(torch::cuda::device_count());
  MOGA_CHECK(gpus >= options.processes,
             "bench_cuda_processes: {} processes need as many GPUs; libtorch {} sees {}", options.processes,
             TORCH_VERSION, gpus);
  const auto ranks = find_ranks();
  if (!ranks) {
    return launch({.processes = options.processes, .command = own_command()});
  }
  const torch::Device device(torch::kCUDA, static_cast<c10::DeviceIndex>(ranks->local_rank));
  c10::cuda::set_device(device.index());
  const World world = Communicator::connect(*ranks, {.device = device});
  std::optional<Report> report;
  const GpuLimits limits = measure_gpu_limits();
  if (world->rank() == 0) {
    report.emplace(limits, options.json_file);
  }
  Report* out = report ? &*report : nullptr;
  for (const std::string& which : options.layers) {
    bench_layer(options, which, world, out);
    c10::cuda::CUDACachingAllocator::emptyCache();
  }
  for (const std::string& which : options.steps) {
    bench_step(options, which, world, out);
    c10::cuda::CUDACachingAllocator::emptyCache();
  }
  return 0;
}

}  // namespace
}  // namespace moga::bench

int main(int argc, char** argv) {
  moga::tune_runtime(argv);
  moga::bench::Options o;
  CLI::App app(
      "One layer and one denoising step of the 1.3B model with the tokens of a film shared by several GPUs");
  app.add_option("--processes", o.processes, "GPUs of this machine, a process each")
      ->check(CLI::PositiveNumber);
  app.add_option("--layers", o.layers,
                 "Layers: LATENT-FRAMES:GROUPS (1,560 tokens a frame), 0 groups being full attention")
      ->delimiter(',');
  app.add_option("--steps", o.steps, "Steps, likewise")->delimiter(',');
  app.add_flag("!--no-alone", o.alone,
               "Steps: do not run them on one GPU as well, to compare time and prediction");
  app.add_option("--repeats", o.repeats, "Runs of one measurement, after one to warm up")
      ->check(CLI::PositiveNumber);
  app.add_option("--json", o.json_file, "Write all numbers to this file");
  CLI11_PARSE(app, argc, argv);
  try {
    return moga::bench::run(o);
  } catch (const std::exception& error) {
    if (!moga::tell_launcher(error.what(), dynamic_cast<const moga::PeerError*>(&error) != nullptr)) {
      std::fprintf(stderr, "bench_cuda_processes: %s\n", error.what());
    }
    return 2;
  }
}
