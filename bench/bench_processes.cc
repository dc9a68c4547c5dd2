// What processes send to each other in a training step, counted by the kernel's TCP sockets, and the memory
// that a training step and a forward pass take, counted by libtorch's allocator and as resident memory,
// beside what `moga plan --processes` says; and the step's time. JSON on stdout.
//
//   bench_processes --processes 4 --sequence-parallel 2
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>

#include "base/threads.h"
#include "bench/process_memory.h"
#include "distributed/launcher.h"
#include "distributed/sharded_parameters.h"
#include "model/tensor_memory.h"
#include "model/wan_dit.h"
#include "pipeline/planner.h"
#include "training/flat_parameters.h"
#include "training/optimizer.h"

namespace moga::bench {
namespace {

using torch::Tensor;

struct Options {
  int64_t processes = 4;
  int64_t sequence = 4;
  int64_t dim = 384;
  int64_t heads = 12;
  int64_t layers = 4;
  int64_t frames = 33;
  int64_t width = 256;
  int64_t height = 160;
  int64_t steps = 5;
  bool recompute = false;
};

// Bytes that this process has sent over its TCP connections, each counted once.
double bytes_sent() {
  double sum = 0;
  for (int fd = 0; fd < 4096; ++fd) {
    tcp_info info = {};
    socklen_t size = sizeof(info);
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0) {
      sum += static_cast<double>(info.tcpi_bytes_sent - info.tcpi_bytes_retrans);
    }
  }
  return sum;
}

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

PlanRequest plan_request(const Options& options) {
  PlanRequest request;
  request.model = model_config("wan-1.3b");
  DitConfig& dit = request.model.dit;
  dit.dim = options.dim;
  dit.heads = options.heads;
  dit.layers = options.layers;
  dit.ffn_dim = 4 * options.dim;
  dit.text_dim = 64;
  dit.text_len = 32;
  request.frames = options.frames;
  request.width = options.width;
  request.height = options.height;
  request.shot_starts = even_shots((options.frames - 1) / 4 + 1, 2);
  request.precision = Precision::kF32;
  request.processes = options.processes;
  request.sequence = options.sequence;
  return request;
}

// Per rank: bytes of forward, backward and gradient phases, seconds of a step, seconds waited in it, bytes of
// tensors and of resident memory at most in training steps, bytes of tensors at most in a forward pass.
constexpr int64_t kNumbers = 8;

double forward_pass_bytes(const FilmPlan& film, const Mesh& mesh) {
  const torch::NoGradGuard no_grad;
  const DitConfig& config = film.request.model.dit;
  const FilmLayout& layout = film.layout;
  const DitPlan plan =
      plan_dit({layout}, GlobalText::kNone, config, torch::kCPU, torch::kFloat32, nullptr, mesh.sequence);
  const Tensor latent =
      torch::randn({1, config.in_channels, layout.frames, 2 * layout.rows, 2 * layout.cols});
  const Tensor captions = torch::randn({1, plan.captions, config.text_len, config.text_dim});
  TensorMemory memory;
  WanDit dit(config);
  memory.forget_peak();
  dit->forward(latent, torch::full({1}, 500.0, torch::kFloat64), captions, plan);
  return static_cast<double>(memory.peak());
}

Tensor measure(const Options& options, const FilmPlan& film, const Mesh& mesh) {
  torch::manual_seed(1);
  const double resident_before = process_bytes("VmRSS");
  TensorMemory memory;
  const DitConfig& config = film.request.model.dit;
  WanDit dit(config);
  dit->recompute_blocks(options.recompute);
  FlatParameters flat({{"", dit.get()}}, torch::kCPU);
  ShardedParameters sharded(flat.values(), flat.parameters(), mesh.world);
  Optimizer optimizer(sharded.share(), {});
  const DitPlan plan = plan_dit({film.layout}, GlobalText::kNone, config, torch::kCPU, torch::kFloat32,
                                nullptr, mesh.sequence);
  const FilmLayout& layout = film.layout;
  const Tensor latent =
      torch::randn({1, config.in_channels, layout.frames, 2 * layout.rows, 2 * layout.cols});
  const Tensor captions = torch::randn({1, plan.captions, config.text_len, config.text_dim});
  const auto loss = [&] {
    return dit->forward(latent, torch::full({1}, 500.0, torch::kFloat64), captions, plan).square().mean();
  };
  Tensor result = torch::zeros({1, kNumbers}, torch::kFloat64);
  auto* numbers = result.data_ptr<double>();
  // The phases apart: nothing is sent while the next one runs.
  const auto phase = [&](int64_t place, const std::function<void()>& body) {
    mesh.world->barrier("phase");
    const double before = bytes_sent();
    body();
    numbers[place] = bytes_sent() - before;
    mesh.world->barrier("phase");
  };
  Tensor value;
  phase(0, [&] { value = loss(); });
  phase(1, [&] { value.backward(); });
  phase(2, [&] {
    sharded.start_reduction();
    sharded.finish_reduction();
    sharded.publish();
  });
  // Steps as training takes them.
  double waited = 0;
  double start = 0;
  for (int64_t step = 0; step <= options.steps; ++step) {
    if (step == 1) {  // the first warms up
      mesh.world->barrier("start");
      waited = mesh.world->seconds_waited();
      memory.forget_peak();
      forget_peak();
      start = now();
    }
    flat.zero_gradients();
    const Tensor step_loss = loss();
    sharded.start_reduction();
    step_loss.backward();
    sharded.finish_reduction();
    optimizer.step(1e-5);
    sharded.publish();
  }
  const auto steps = static_cast<double>(options.steps);
  numbers[3] = (now() - start) / steps;
  numbers[4] = (mesh.world->seconds_waited() - waited) / steps;
  numbers[5] = static_cast<double>(memory.peak());
  numbers[6] = process_bytes("VmHWM") - resident_before;
  return result;
}

nlohmann::ordered_json both(double measured, double theory) {
  return {{"measured", measured}, {"theory", theory}, {"ratio", theory > 0 ? measured / theory : 1}};
}

void run(const Options& options) {
  const auto ranks = find_ranks();
  if (!ranks) {
    launch({.processes = options.processes, .command = own_command()});
    return;
  }
  init_threads();
  at::set_num_threads(thread_count());
  const FilmPlan film = plan_film(plan_request(options));
  const Mesh mesh = make_mesh(Communicator::connect(*ranks), options.sequence);
  const Tensor mine = measure(options, film, mesh);
  mine[0][kNumbers - 1] = forward_pass_bytes(film, mesh);
  const Tensor all = mesh.world->all_gather(
      mine, std::vector<int64_t>(static_cast<size_t>(mesh.world->size()), 1), "numbers");
  if (mesh.world->rank() != 0) {
    return;
  }
  nlohmann::ordered_json json = {{"processes", options.processes},
                                 {"sequence_parallel", options.sequence},
                                 {"tokens", film.layout.tokens()},
                                 {"width", options.dim},
                                 {"heads", options.heads},
                                 {"layers", options.layers},
                                 {"parameters", film.parameters_dit},
                                 {"threads", thread_count()},
                                 {"recompute", options.recompute},
                                 {"steps", options.steps}};
  // What is planned is that of the rank that needs the most.
  const ProcessCosts& plan = *film.processes;
  const auto most = [&](int64_t i) { return all.select(1, i).max().item<double>(); };
  json["training_bytes"] =
      both(most(5), plan.weights_train +
                        (options.recompute ? plan.activations_train_checkpointed : plan.activations_train));
  json["training_resident"] = most(6);
  json["forward_bytes"] = both(most(kNumbers - 1), plan.generate);
  for (int64_t r = 0; r < mesh.world->size(); ++r) {
    const auto number = [&](int64_t i) { return all[r][i].item<double>(); };
    const RankCosts& costs = film.processes->ranks[static_cast<size_t>(r % options.sequence)];
    const double again = options.recompute ? costs.sent_again : 0;
    json["ranks"].push_back({{"tokens", costs.tokens},
                             {"heads", costs.heads},
                             {"flops_forward", costs.flops.total()},
                             {"sent_forward", both(number(0), costs.sent_forward)},
                             {"sent_backward", both(number(1), costs.sent_backward + again)},
                             {"sent_gradients", both(number(2), film.processes->sent_gradients)},
                             {"step_seconds", number(3)},
                             {"waited_seconds", number(4)}});
  }
  std::printf("%s\n", json.dump(1).c_str());
}

}  // namespace
}  // namespace moga::bench

int main(int argc, char** argv) {
  moga::tune_runtime(argv);
  moga::bench::Options options;
  CLI::App app{"Bytes that processes send in a training step, measured and planned"};
  app.add_option("--processes", options.processes, "Processes")->check(CLI::Range(2, 64));
  app.add_option("--sequence-parallel", options.sequence, "Processes that share a film");
  app.add_option("--dim", options.dim, "Model width");
  app.add_option("--heads", options.heads, "Heads");
  app.add_option("--layers", options.layers, "Blocks");
  app.add_option("--frames", options.frames, "Frames of the film, 4n + 1");
  app.add_option("--width", options.width, "Picture width");
  app.add_option("--height", options.height, "Picture height");
  app.add_option("--steps", options.steps, "Timed steps");
  app.add_flag("--recompute", options.recompute, "Compute blocks again in the backward pass");
  CLI11_PARSE(app, argc, argv);
  try {
    moga::bench::run(options);
  } catch (const std::exception& error) {
    if (!moga::tell_launcher(error.what(), dynamic_cast<const moga::PeerError*>(&error) != nullptr)) {
      std::fprintf(stderr, "bench_processes: %s\n", error.what());
    }
    return 2;
  }
  return 0;
}
