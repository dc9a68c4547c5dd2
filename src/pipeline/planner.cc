#include "pipeline/planner.h"

#include <algorithm>
#include <cmath>

#include "attention/static_groups.h"
#include "pipeline/costs.h"
#include "pipeline/process_costs.h"
#include "pipeline/step_memory.h"

namespace moga {
namespace {

constexpr int64_t kMaxFrames = 1000000;
constexpr int64_t kMaxBreakEven = 4096;  // latent frames

double square(double x) {
  return x * x;
}

// Sum of the squares of `length` split into `parts` nearly equal parts.
double even_squares(int64_t length, int64_t parts) {
  const int64_t whole = length / parts;
  const auto longer = static_cast<double>(length % parts);
  const auto size = static_cast<double>(whole);
  return longer * square(size + 1) + (static_cast<double>(parts) - longer) * square(size);
}

double attended(const PairCounts& pairs, AttentionKind kind, bool widened) {
  const double fixed = pairs.frames + (widened ? pairs.windows : pairs.windows_unwidened);
  switch (kind) {
    case AttentionKind::kMoga:
      return pairs.dynamic + fixed;
    case AttentionKind::kStatic:
      return fixed;
    case AttentionKind::kDynamic:
      return pairs.dynamic;
    case AttentionKind::kFull:
      break;
  }
  return pairs.full;
}

struct BothFlops {
  FlopCounts full;
  FlopCounts moga;
};

BothFlops count_flops(const PairCounts& pairs, const FilmLayout& layout, const PlanRequest& request) {
  const DitConfig& dit = request.model.dit;
  const auto tokens = static_cast<double>(layout.tokens());
  const double global = request.film_wide_text ? 1 : 0;
  BothFlops flops;
  flops.full.attention = attention_flops(dit, pairs.full);
  flops.full.dense = dit_dense_flops(dit, tokens, static_cast<double>(layout.shots()) + global, 1 + global);
  flops.moga.attention = attention_flops(dit, attended(pairs, dit.attention.kind, true));
  flops.moga.router = router_flops(dit, tokens);
  flops.moga.dense = flops.full.dense;
  return flops;
}

std::optional<int64_t> find_break_even(const PlanRequest& request, FilmLayout layout) {
  if (request.model.dit.attention.kind == AttentionKind::kFull) {
    return std::nullopt;
  }
  layout.shot_starts = {0};
  for (layout.frames = 1; layout.frames <= kMaxBreakEven; ++layout.frames) {
    const BothFlops flops = count_flops(count_pairs(layout, request.model.dit.attention), layout, request);
    if (flops.moga.total() < flops.full.total()) {
      return layout.frames;
    }
  }
  return std::nullopt;
}

MemoryCounts count_memory(const FilmPlan& plan) {
  const PlanRequest& request = plan.request;
  const DitConfig& dit = request.model.dit;
  const double bytes = request.precision == Precision::kBf16 ? 2 : 4;
  const auto tokens = static_cast<double>(plan.layout.tokens());
  const auto width = static_cast<double>(dit.dim);
  const double captions = static_cast<double>(plan.layout.shots()) + (request.film_wide_text ? 1 : 0);
  const StepMemory step = training_step_memory(
      dit, request.precision, {tokens, tokens, captions * static_cast<double>(dit.text_len)});
  MemoryCounts memory;
  const auto wide = static_cast<double>(dit_float32_parameters(dit));
  memory.weights_dit = 4 * wide + bytes * (static_cast<double>(plan.parameters_dit) - wide);
  memory.weights_text = bytes * static_cast<double>(plan.parameters_text);
  memory.weights_vae = 4 * static_cast<double>(plan.parameters_vae);
  memory.weights = memory.weights_dit + memory.weights_text + memory.weights_vae;
  memory.weights_train = 5.0 * 4 * static_cast<double>(plan.parameters_dit);
  memory.activations_train = step.whole;
  memory.activations_train_checkpointed = step.recomputed;
  // Generation, in float32 beside bfloat16 weights too. In the attention: the residual stream, its normed
  // copy, q and k before and after norm and rotation, v, the output before and after its projection; or in
  // the feed-forward layer: the stream before and after the attentions, its normed copy, the inner rows, the
  // output.
  constexpr double kWide = 4;
  const double denoise = tokens * kWide * std::max(9 * width, 4 * width + static_cast<double>(dit.ffn_dim));
  // The decoder works on four pictures at a time; at full resolution about four maps of `dim` channels live.
  const double decode =
      4 * 4 * kWide * static_cast<double>(request.width * request.height * request.model.vae.dim);
  memory.activations_generate = std::max(denoise, decode);
  memory.generate =
      std::max({memory.weights_text, memory.weights_dit + denoise, memory.weights_vae + decode});
  return memory;
}

FilmLayout layout_of(const PlanRequest& request) {
  MOGA_CHECK(request.frames >= 1 && request.frames <= kMaxFrames && request.frames % 4 == 1,
             "film: expected 4n + 1 frames, at most {}, found {}", kMaxFrames, request.frames);
  MOGA_CHECK(request.width >= 16 && request.height >= 16 && request.width <= 16384 &&
                 request.height <= 16384 && request.width % 16 == 0 && request.height % 16 == 0,
             "film: expected sides of 16 to 16384 pixels divisible by 16, found {}x{}", request.width,
             request.height);
  MOGA_CHECK(std::isfinite(request.fps) && request.fps > 0,
             "film: expected a positive number of frames a second, found {}", request.fps);
  FilmLayout layout;
  layout.frames = (request.frames - 1) / 4 + 1;
  layout.rows = request.height / 16;
  layout.cols = request.width / 16;
  layout.shot_starts = request.shot_starts;
  layout.check();
  return layout;
}

}  // namespace

int64_t snap_frames(int64_t frames) {
  MOGA_CHECK(frames >= 1 && frames <= kMaxFrames, "frames: expected 1 to {}, found {}", kMaxFrames, frames);
  return (frames + 1) / 4 * 4 + 1;
}

int64_t frames_for_seconds(double seconds, double fps) {
  MOGA_CHECK(std::isfinite(seconds) && std::isfinite(fps) && seconds > 0 && fps > 0 &&
                 seconds * fps <= static_cast<double>(kMaxFrames),
             "length: expected up to {} frames, found {} s at {} fps", kMaxFrames, seconds, fps);
  // A small allowance, so that 0.7 s at 10 fps counts as seven frames.
  const auto fitting = static_cast<int64_t>(std::floor(seconds * fps + 1e-6));
  return std::max<int64_t>(1, (fitting - 1) / 4 * 4 + 1);
}

std::vector<int64_t> even_shots(int64_t latent_frames, int64_t shots) {
  MOGA_CHECK(shots >= 1 && shots <= latent_frames,
             "shots: expected 1 to {} (one latent frame each), found {}", latent_frames, shots);
  std::vector<int64_t> starts;
  for (int64_t i = 0; i < shots; ++i) {
    starts.push_back(i * latent_frames / shots);
  }
  return starts;
}

PairCounts count_pairs(const FilmLayout& layout, const MogaConfig& attention) {
  const WindowConfig& windows = attention.windows;
  MOGA_CHECK(attention.groups >= 1, "groups: expected at least 1, found {}", attention.groups);
  MOGA_CHECK(
      windows.rows >= 1 && windows.cols >= 1 && windows.rows <= layout.rows && windows.cols <= layout.cols,
      "windows: a grid of {} x {} does not fit into {} x {} tokens a latent frame", windows.rows,
      windows.cols, layout.rows, layout.cols);
  PairCounts pairs;
  pairs.full = square(static_cast<double>(layout.tokens()));
  pairs.dynamic = even_squares(layout.tokens(), attention.groups);
  pairs.frames = static_cast<double>(layout.frames) * square(static_cast<double>(layout.frame_tokens()));
  // Tokens of a window squared, summed over the windows of a frame.
  const double window_squares =
      even_squares(layout.rows, windows.rows) * even_squares(layout.cols, windows.cols);
  for (const auto& [begin, end] : temporal_groups(layout, windows.temporal_group)) {
    // Two more key frames, one on each side or both on one, as far as the film has them.
    const bool widen = windows.boundary == Boundary::kNeighbours;
    const int64_t extra = widen ? std::min<int64_t>(2, layout.frames - (end - begin)) : 0;
    const double queries = window_squares * static_cast<double>(end - begin);
    pairs.windows_unwidened += queries * static_cast<double>(end - begin);
    pairs.windows += queries * static_cast<double>(end - begin + extra);
  }
  return pairs;
}

FilmPlan plan_film(const PlanRequest& request) {
  const DitConfig& dit = request.model.dit;
  const MogaConfig& attention = dit.attention;
  FilmPlan plan;
  plan.request = request;
  plan.layout = layout_of(request);
  plan.pairs = count_pairs(plan.layout, attention);
  plan.temporal_groups =
      static_cast<int64_t>(temporal_groups(plan.layout, attention.windows.temporal_group).size());
  if (attention.kind == AttentionKind::kMoga || attention.kind == AttentionKind::kDynamic) {
    plan.segments_dynamic = attention.groups;
  } else if (attention.kind == AttentionKind::kFull) {
    plan.segments_dynamic = 1;
  }
  if (attention.kind == AttentionKind::kMoga || attention.kind == AttentionKind::kStatic) {
    plan.segments_windows = plan.temporal_groups * attention.windows.rows * attention.windows.cols;
    plan.segments_frames = plan.layout.frames;
  }
  plan.sparsity = 1 - attended(plan.pairs, attention.kind, false) / plan.pairs.full;
  plan.sparsity_exact = 1 - attended(plan.pairs, attention.kind, true) / plan.pairs.full;
  const BothFlops flops = count_flops(plan.pairs, plan.layout, request);
  plan.full = flops.full;
  plan.moga = flops.moga;
  plan.break_even_latent_frames = find_break_even(request, plan.layout);
  plan.parameters_dit = dit_parameters(dit);
  plan.parameters_text = text_parameters(request.model.text);
  plan.parameters_vae = vae_parameters(request.model.vae);
  plan.memory = count_memory(plan);
  if (request.processes > 1 || request.sequence > 1) {
    plan.processes = process_costs(plan);
  }
  plan.vae_decode_flops =
      vae_decode_flops(request.model.vae, plan.layout.frames, request.width, request.height);
  return plan;
}

TimeEstimate estimate_time(const FilmPlan& plan, double flops_per_second) {
  MOGA_CHECK(flops_per_second > 0, "expected a positive rate, found {}", flops_per_second);
  const SamplingDefaults& sampling = plan.request.model.sampling;
  const double passes = static_cast<double>(sampling.steps) * (sampling.guidance == 1 ? 1 : 2);
  TimeEstimate time;
  time.forward_full = plan.full.total() / flops_per_second;
  time.forward_moga = plan.moga.total() / flops_per_second;
  time.generate = passes * time.forward_moga + plan.vae_decode_flops / flops_per_second;
  time.train_step = 3 * time.forward_moga;
  return time;
}

}  // namespace moga
