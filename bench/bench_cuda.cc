// What MoGA costs on a GPU against full attention: one visual-attention layer of the 1.3B model, one
// denoising step, one training step, and the decoding of a film. A table for people, JSON for documents.
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>
#include <fmt/format.h>
#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "attention/fused_backend.h"
#include "attention/slot_rows.h"
#include "attention/torch_compat.h"
#include "attention/visual_attention.h"
#include "base/atomic_file.h"
#include "base/error.h"
#include "bench/cuda_networks.h"
#include "bench/cuda_report.h"
#include "bench/cuda_timing.h"
#include "model/wan_dit.h"
#include "model/wan_vae.h"

namespace moga::bench {
namespace {

using nlohmann::json;
using torch::Tensor;

struct Options {
  std::vector<int64_t> frames = {20, 40, 120, 371};  // latent: 31k, 62k, 187k and 578k tokens
  std::vector<int64_t> groups = {5, 10, 20};
  std::vector<std::string> backends = {"flash", "cudnn_dense"};  // of full attention
  std::string moga_backend = "auto";
  bool backward = false;
  int64_t full_backward_frames = 120;
  int repeats = 20;
  bool layer = false, step = false, training_step = false, vae = false;
  bool graph = false;
  bool even = false;
  std::vector<std::string> step_cases = {"120:0", "120:5", "371:20"};
  std::string train_case = "120:5";
  int64_t vae_frames = 120;
  int64_t vae_piece = 1;
  std::vector<std::string> vae_types = {"bf16", "fp16"};
  std::string json_file;
};

void force(const std::string& name) {
  if (name == "auto") {
    force_backend(std::nullopt);
    return;
  }
  for (const auto& [backend, known] : EnumNames<FusedBackend>::kNames) {
    if (name == known) {
      force_backend(backend);
      return;
    }
  }
  fail("--backend: expected auto, flash, cudnn_varlen or cudnn_dense, found '{}'", name);
}

// --- One visual-attention layer ---

struct Layer {
  Tensor q, k, v, hidden, dout;
};

Layer make_layer(int64_t tokens, bool backward) {
  torch::manual_seed(1);
  const auto half = gpu(torch::kBFloat16);
  Layer layer;
  for (Tensor* x : {&layer.q, &layer.k, &layer.v}) {
    *x = torch::randn({tokens, kHeads, kHeadSize}, half).requires_grad_(backward);
  }
  layer.hidden = torch::randn({tokens, kHeads * kHeadSize}, half);
  if (backward) {
    layer.dout = torch::randn({tokens, kHeads, kHeadSize}, half);
  }
  return layer;
}

// Runs body and, with gradients, its backward pass.
void pass(Layer& layer, const std::function<Tensor()>& body) {
  const Tensor out = body();
  if (layer.dout.defined()) {
    for (Tensor* x : {&layer.q, &layer.k, &layer.v}) {
      x->mutable_grad() = Tensor();
    }
    out.backward(layer.dout);
  }
}

// The attention kernels of these groups alone: q, k and v lie as they want them.
GpuTime time_kernels(Layer& layer, const std::vector<const Groups*>& parts, int repeats) {
  GpuTime sum;
  for (const Groups* groups : parts) {
    Groups packed = *groups;
    const auto in_order = [](const Tensor& index) { return torch::arange(index.numel(), index.options()); };
    packed.q_index = in_order(groups->q_index);
    packed.kv_index = in_order(groups->kv_index);
    packed.q_order = packed.kv_order = IndexOrder::kIdentity;
    packed.q_bound = packed.q_index.numel();
    packed.kv_bound = packed.kv_index.numel();
    Layer slots;
    {
      const torch::NoGradGuard guard;
      slots.q = layer.q.index_select(0, groups->q_index);
      slots.k = layer.k.index_select(0, groups->kv_index);
      slots.v = layer.v.index_select(0, groups->kv_index);
    }
    if (layer.dout.defined()) {
      slots.dout = layer.dout;
      for (Tensor* x : {&slots.q, &slots.k, &slots.v}) {
        x->requires_grad_(true);
      }
    }
    const GpuTime time = time_on_gpu(repeats, [&] {
      pass(slots, [&] { return summed_attention(slots.q, slots.k, slots.v, {{&packed, {}, 1.0}}); });
    });
    sum.ms += time.ms;
    sum.host_ms += time.host_ms;
    sum.repeats = time.repeats;
  }
  return sum;
}

void bench_layer(const Options& options, int64_t frames, bool backward, Report& report) {
  const FilmLayout film = film_of(frames);
  const int64_t tokens = film.tokens();
  const auto pairs = static_cast<double>(tokens) * static_cast<double>(tokens);
  const torch::AutoGradMode gradients(backward);
  const std::string pass_name = backward ? "forward+backward" : "forward";
  double full_ms = 0;
  if (!backward || frames <= options.full_backward_frames) {
    const StaticPlan plan = plan_static_groups(film, attention_config(0), 1, torch::kCUDA);
    for (const std::string& backend : options.backends) {
      Layer layer = make_layer(tokens, backward);
      force(backend);
      const GpuTime time = time_on_gpu(options.repeats, [&] {
        pass(layer,
             [&] { return visual_attention(layer.q, layer.k, layer.v, plan, {}, attention_config(0)); });
      });
      full_ms = full_ms == 0 ? time.ms : std::min(full_ms, time.ms);
      report.add(row_of("layer", tokens, "full " + backend, pass_name, time),
                 attention_flops(pairs, backward));
    }
  }
  force(options.moga_backend);
  Layer layer = make_layer(tokens, backward);
  const auto add = [&](const std::string& name, const GpuTime& time, const GpuTime& kernels, double p,
                       json more) {
    json row = row_of("layer", tokens, name, pass_name, time);
    row.update(more);
    row["kernels_ms"] = kernels.ms;
    row["outside_kernels"] = 1 - kernels.ms / time.ms;
    if (full_ms > 0) {
      row["speedup"] = full_ms / time.ms;
    }
    report.add(std::move(row), attention_flops(p, backward));
  };
  MogaConfig config = attention_config(1);
  config.kind = AttentionKind::kStatic;
  const StaticPlan plan = plan_static_groups(film, config, 1, torch::kCUDA);
  const double static_pairs = plan.windows.pairs() + plan.frames.pairs();
  {
    const GpuTime time = time_on_gpu(options.repeats, [&] {
      pass(layer, [&] { return visual_attention(layer.q, layer.k, layer.v, plan, {}, config); });
    });
    add("static " + options.moga_backend, time,
        time_kernels(layer, {&plan.windows, &plan.frames}, options.repeats), static_pairs, json::object());
  }
  config.kind = AttentionKind::kMoga;
  for (const int64_t M : options.groups) {
    config.groups = M;
    torch::manual_seed(2);
    Router router(kHeads * kHeadSize, M);
    router->to(torch::kCUDA, torch::kBFloat16);
    const GpuTime time = time_on_gpu(options.repeats, [&] {
      pass(layer,
           [&] { return visual_attention(layer.q, layer.k, layer.v, plan, router(layer.hidden), config); });
    });
    const torch::NoGradGuard guard;
    const Routing routing = router(layer.hidden);
    const Groups routed = groups_from_ids(routing.group_ids_L, M);
    const SlotSide side{routed.q_index, IndexOrder::kPermutation, tokens};
    Tensor out = torch::empty_like(layer.q);
    const json stages = {
        {"route_ms", time_on_gpu(options.repeats, [&] { router(layer.hidden); }).ms},
        {"sort_ms", time_on_gpu(options.repeats, [&] { groups_from_ids(routing.group_ids_L, M); }).ms},
        {"gather_qkv_ms", time_on_gpu(options.repeats,
                                      [&] {
                                        gather_slots({{layer.q, &side}, {layer.k, &side}, {layer.v, &side}});
                                      })
                              .ms},
        {"scatter_ms",
         time_on_gpu(options.repeats,
                     [&] { scatter_slots(layer.q, side, routing.top_prob_L, 1.0 / 3, out, true); })
             .ms},
        {"largest_group", routed.q_offsets.diff().max().item<int64_t>()}};
    GpuTime kernels;
    {
      const torch::AutoGradMode again(backward);
      kernels = time_kernels(layer, {&plan.windows, &plan.frames, &routed}, options.repeats);
    }
    add(fmt::format("moga M={} {}", M, options.moga_backend), time, kernels, static_pairs + routed.pairs(),
        {{"groups", M}, {"stages", stages}});
  }
}

// Random routers see tokens that have much in common, and most tokens go to a few groups. Without what they
// have in common, groups are nearly even, as the balancing loss makes them in training.
void centre_routers(Network& net) {
  auto parameters = net.dit->named_parameters();
  DitTrace trace;
  trace.observe = [&](const std::string& what, const Tensor& value) {  // before the block routes
    constexpr std::string_view kInput = "self_attn.in";
    if (what.starts_with("block") && what.ends_with(kInput)) {
      const std::string number = what.substr(5, what.find('.') - 5);
      const std::string router = "blocks." + number + ".self_attn.router.";
      const Tensor mean_C = value.to(torch::kFloat32).mean(at::IntArrayRef{0, 1});
      parameters[router + "bias"].copy_(-parameters[router + "weight"].to(torch::kFloat32).mv(mean_C));
    }
  };
  net.dit->forward(net.latent, net.timestep, net.captions, net.plan, &trace);
}

void bench_step(const Options& options, const std::string& which, Report& report) {
  const auto [frames, groups] = parse_case(which);
  Network net = make_network(frames, groups, torch::kBFloat16);
  const c10::InferenceMode mode;
  const bool even = options.even && groups > 0;
  if (even) {
    centre_routers(net);
  }
  const std::string name = case_name(groups) + (even ? ", even" : "");
  const auto forward = [&](DitTrace* trace) {
    return net.dit->forward(net.latent, net.timestep, net.captions, net.plan, trace);
  };
  DitTrace trace;
  const Tensor out = forward(&trace);
  MOGA_CHECK(torch::isfinite(out).all().item<bool>(), "the step's output is not finite");
  const double flops = step_flops(net, visual_pairs(net, trace.routing));
  trace = {};
  const GpuTime time = time_on_gpu(3, [&] { forward(nullptr); });
  report.add(row_of("denoising step", net.plan.layout.tokens(), name, "forward", time), flops);
  if (options.graph) {
    // What waits for the device anywhere cannot be recorded.
    const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromPool());
    forward(nullptr);
    torch::cuda::synchronize();
    at::cuda::CUDAGraph graph;
    graph.capture_begin();
    const Tensor recorded = forward(nullptr);
    graph.capture_end();
    const GpuTime replay = time_on_gpu(3, [&] { graph.replay(); });
    const double difference = (recorded - out).abs().max().item<double>() / out.abs().max().item<double>();
    json row = row_of("denoising step", net.plan.layout.tokens(), name, "graph replay", replay);
    row["difference"] = difference;
    report.add(std::move(row), flops);
    MOGA_CHECK(difference < 0.05, "the recorded step differs from the first by {:.3g} of its largest value",
               difference);
  }
}

void bench_training_step(const Options& options, Report& report) {
  const auto [frames, groups] = parse_case(options.train_case);
  Network net = make_network(frames, groups, torch::kFloat32);
  net.dit->recompute_blocks(true);
  torch::optim::AdamW optimizer(net.dit->parameters(), torch::optim::AdamWOptions(1e-5));
  const Tensor target = torch::randn_like(net.latent);
  double loss_value = 0;
  double pairs = 0;
  const auto step = [&] {
    optimizer.zero_grad();
    DitTrace trace;
    Tensor loss;
    {
      const compat::Autocast autocast(torch::kCUDA, torch::kBFloat16);
      const Tensor out = net.dit->forward(net.latent, net.timestep, net.captions, net.plan, &trace);
      loss = (out - target).square().mean();
      for (const Routing& routing : trace.routing) {
        loss = loss + 0.1 * balance_loss(routing, BalanceForm::kSwitch);
      }
    }
    loss.backward();
    optimizer.step();
    loss_value = loss.item<double>();
    if (pairs == 0) {
      pairs = visual_pairs(net, trace.routing);
    }
  };
  const GpuTime time = time_on_gpu(2, step);
  MOGA_CHECK(std::isfinite(loss_value), "the training step's loss is not finite");
  json row = row_of("training step", net.plan.layout.tokens(), case_name(groups), "recomputed blocks", time);
  row["loss"] = loss_value;
  // Forward, forward again, and backward: twice the products, two and a half times the attention.
  const double forward = step_flops(net, pairs);
  const double attention = step_flops(net, pairs) - step_flops(net, 0);
  report.add(std::move(row), 4 * forward + 0.5 * attention);
}

void bench_vae(const Options& options, const std::string& type, Report& report) {
  const auto dtype = type == "fp16" ? torch::kFloat16 : type == "bf16" ? torch::kBFloat16 : torch::kFloat32;
  WanVae vae{VaeConfig()};
  torch::manual_seed(5);
  fill_weights(*vae, dtype, [](const std::string&) { return true; });
  const c10::InferenceMode mode;
  const Tensor latent =
      torch::randn({1, vae->config().z_dim, options.vae_frames, 2 * kRows, 2 * kCols}, gpu(dtype));
  int64_t decoded = 0;
  const auto decode = [&](int64_t frames) {
    VaeDecodeStream stream(vae);
    decoded = 0;
    for (int64_t f = 0; f < frames; f += options.vae_piece) {
      const int64_t end = std::min(frames, f + options.vae_piece);
      decoded += stream.next(latent.slice(2, f, end)).to(torch::kCPU).size(2);
    }
  };
  decode(std::min<int64_t>(options.vae_frames, 3 * options.vae_piece));  // chooses its convolutions
  torch::cuda::synchronize();
  c10::cuda::CUDACachingAllocator::resetPeakStats(0);
  GpuEvent begin;
  GpuEvent end;
  begin.record();
  decode(options.vae_frames);
  end.record();
  const double ms = end.milliseconds_since(begin);
  json row = row_of("vae decode", options.vae_frames * kRows * kCols, type, fmt::format("{} frames", decoded),
                    {ms, ms, 1, peak_gigabytes()});
  row["frames"] = decoded;
  row["ms_a_frame"] = ms / static_cast<double>(decoded);
  report.add(std::move(row), 0);
}

// One measurement that does not fit must not end those after it.
template <typename Body>
void attempt(const std::string& name, const Body& body) {
  try {
    body();
  } catch (const c10::Error& error) {
    const std::string text = error.what_without_backtrace();
    fmt::print("{}: {}\n", name, text.substr(0, text.find('\n')));
  }
  c10::cuda::CUDACachingAllocator::emptyCache();
}

int run(int argc, char** argv) {
  Options o;
  CLI::App app(
      "What MoGA costs on a GPU against full attention. Without --layer, --step, --training-step or --vae: "
      "--layer.");
  app.add_flag("--layer", o.layer, "One visual-attention layer of the 1.3B model");
  app.add_flag("--step", o.step, "One forward pass of the whole 1.3B model, random weights, bfloat16");
  app.add_flag("--training-step", o.training_step,
               "One training step of it, float32 weights, bfloat16 products, blocks recomputed");
  app.add_flag("--vae", o.vae, "The decoding of a film at 832x480, piece by piece");
  app.add_option("--frames,--tokens", o.frames,
                 "Latent frames of 1560 tokens (values above 1000 are taken as tokens)")
      ->delimiter(',');
  app.add_option("--groups", o.groups, "Routed groups M")->delimiter(',');
  app.add_flag("--backward", o.backward, "Layers: forward and backward as well");
  app.add_option("--full-backward-frames", o.full_backward_frames,
                 "Layers: full attention backward up to this many latent frames");
  app.add_option("--full-backends", o.backends,
                 "Layers: kernels of full attention: flash, cudnn_dense, cudnn_varlen")
      ->delimiter(',');
  app.add_option("--backend", o.moga_backend,
                 "Kernels of grouped attention where they can serve: auto, flash, cudnn_varlen, cudnn_dense");
  app.add_option("--repeats", o.repeats, "Most runs of one measurement")->check(CLI::PositiveNumber);
  app.add_option("--step-cases", o.step_cases, "Steps: FRAMES:GROUPS, 0 groups being full attention")
      ->delimiter(',');
  app.add_flag("--graph", o.graph, "Steps: also recorded as a CUDA graph and replayed");
  app.add_flag("--even", o.even,
               "Steps: centre the routers on their inputs, which makes groups nearly even, as training does");
  app.add_option("--train-case", o.train_case, "Training step: FRAMES:GROUPS");
  app.add_option("--vae-frames", o.vae_frames, "Decoding: latent frames (120 are 477 frames)");
  app.add_option("--vae-piece", o.vae_piece, "Decoding: latent frames at a time")->check(CLI::PositiveNumber);
  app.add_option("--vae-types", o.vae_types, "Decoding: bf16, fp16, fp32")->delimiter(',');
  app.add_option("--json", o.json_file, "Write all numbers to this file");
  CLI11_PARSE(app, argc, argv);
  MOGA_CHECK(torch::cuda::is_available(), "bench_cuda needs a CUDA GPU; this libtorch ({}) sees none",
             TORCH_VERSION);
  for (int64_t& frames : o.frames) {
    frames = frames > 1000 ? frames / (kRows * kCols) : frames;
    MOGA_CHECK(frames > 0, "--tokens: a latent frame has {} tokens, so fewer are no film", kRows * kCols);
  }
  o.layer = o.layer || !(o.step || o.training_step || o.vae);
  Report report(measure_gpu_limits(), o.json_file);
  if (o.layer) {
    for (const int64_t frames : o.frames) {
      for (const bool backward : {false, true}) {
        if (!backward || o.backward) {
          attempt("layer", [&] { bench_layer(o, frames, backward, report); });
        }
      }
    }
  }
  force(o.moga_backend);
  if (o.step) {
    for (const std::string& which : o.step_cases) {
      attempt("step " + which, [&] { bench_step(o, which, report); });
    }
  }
  if (o.training_step) {
    attempt("training step", [&] { bench_training_step(o, report); });
  }
  if (o.vae) {
    for (const std::string& type : o.vae_types) {
      attempt("vae " + type, [&] { bench_vae(o, type, report); });
    }
  }
  return 0;
}

}  // namespace
}  // namespace moga::bench

int main(int argc, char** argv) {
  try {
    return moga::bench::run(argc, argv);
  } catch (const moga::Error& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 2;
  }
}
