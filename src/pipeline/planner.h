// What a film costs before a single number of it is computed: tokens, groups, sparsity, operations, memory,
// time. Nothing here makes a tensor.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "attention/film_layout.h"
#include "model/wan_config.h"

namespace moga {

struct PlanRequest {
  ModelConfig model;   // its dit.attention says groups and windows; kFull or ablations are planned too
  int64_t frames = 0;  // 4n + 1; snap_frames() makes it so
  double fps = 16;
  int64_t width = 832;  // pixels, divisible by 16
  int64_t height = 480;
  std::vector<int64_t> shot_starts = {0};  // first latent frame of each shot
  bool film_wide_text = false;             // one caption more, which every shot sees
  Precision precision = Precision::kBf16;
  int64_t processes = 1;
  int64_t sequence = 1;  // processes that share one film; the other way, films are split over groups of them
};

// (query, key) pairs of one layer; a token attends in all three groupings, so pairs of different parts add.
struct PairCounts {
  double full = 0;
  double dynamic = 0;            // routed groups, taken as even
  double windows = 0;            // keys widened over the boundaries as configured
  double windows_unwidened = 0;  // the same groups without boundary keys
  double frames = 0;
};

struct FlopCounts {
  double attention = 0;  // the visual attention's scores and weighted sums
  double router = 0;
  double dense = 0;  // everything else, the same for full attention and MoGA
  double total() const { return attention + router + dense; }
};

// Bytes.
struct MemoryCounts {
  double weights = 0;  // all three networks, as they are kept in memory (ModelFolder)
  double weights_dit = 0;
  double weights_text = 0;
  double weights_vae = 0;        // always float32
  double weights_train = 0;      // transformer: float32 weights, gradients, two Adam moments, moving average
  double activations_train = 0;  // the most at once (pipeline/step_memory.h)
  double activations_train_checkpointed = 0;  // blocks are computed again in the backward pass
  double activations_generate = 0;            // one block of one sample, or the VAE's decoder if that is more
  // The most that generation needs at once: the text encoder is dropped before the transformer is loaded, and
  // the transformer before the VAE decodes.
  double generate = 0;
};

// What one of several processes does for its film.
struct RankCosts {
  int64_t tokens = 0;  // that it holds
  int64_t heads = 0;   // that it attends with
  FlopCounts flops;    // of a forward pass
  // Bytes that it sends to others.
  double sent_forward = 0;
  double sent_backward = 0;
  double sent_again = 0;  // more in the backward pass if it computes blocks again
};

struct ProcessCosts {
  int64_t processes = 1;
  int64_t sequence = 1;
  std::vector<RankCosts> ranks;  // of one film: `sequence`
  double balance = 0;            // mean over the ranks of operations, divided by the most: 1 is even
  double speedup = 0;            // operations of one process over those of the busiest of `sequence`
  // Bytes, of the rank that needs the most.
  double weights_train = 0;  // values and gradients whole, the optimiser's share (ZeRO stage 1)
  double activations_train = 0;
  double activations_train_checkpointed = 0;
  double activations_generate = 0;
  double generate = 0;        // transformer and activations; rank 0 also encodes text and decodes
  double sent_gradients = 0;  // bytes a rank sends in a training step for gradients and parameters
};

struct FilmPlan {
  PlanRequest request;
  FilmLayout layout;
  int64_t temporal_groups = 0;
  // Segments of one layer's visual attention.
  int64_t segments_dynamic = 0;
  int64_t segments_windows = 0;
  int64_t segments_frames = 0;
  PairCounts pairs;
  double sparsity = 0;        // 1 - attended pairs / full pairs, without boundary keys (the paper's figure)
  double sparsity_exact = 0;  // with boundary keys: what is computed
  FlopCounts full;            // one forward pass of one sample
  FlopCounts moga;
  // The shortest single-shot film of this picture size whose forward pass takes fewer operations with the
  // request's groups than with full attention; absent if there is none up to 4,096 latent frames.
  std::optional<int64_t> break_even_latent_frames;
  int64_t parameters_dit = 0;
  int64_t parameters_text = 0;
  int64_t parameters_vae = 0;
  MemoryCounts memory;
  double vae_decode_flops = 0;
  std::optional<ProcessCosts> processes;  // if there are several
};

// Seconds, all from one rate of matrix products; lower bounds, since no machine holds that rate throughout.
struct TimeEstimate {
  double forward_full = 0;
  double forward_moga = 0;
  double generate = 0;    // all steps, twice a step with guidance, and decoding
  double train_step = 0;  // one sample, forward and backward (three forward passes)
};

// The nearest 4n + 1, at least 1.
int64_t snap_frames(int64_t frames);

// The longest film of 4n + 1 frames that is not longer than `seconds` (the paper's clips: 10 s at 16 fps are
// 157 frames). Throws Error unless 0 < seconds * fps <= 10^6.
int64_t frames_for_seconds(double seconds, double fps);

// `shots` shots of nearly equal length. Throws Error if there are more shots than latent frames.
std::vector<int64_t> even_shots(int64_t latent_frames, int64_t shots);

// Exact without index lists: equal to GroupIndex::pairs() of the groups that attention/static_groups.h makes.
PairCounts count_pairs(const FilmLayout& layout, const MogaConfig& attention);

// Throws Error on sizes that do not fit (frames not 4n + 1, windows that exceed the token grid, ...).
FilmPlan plan_film(const PlanRequest& request);

TimeEstimate estimate_time(const FilmPlan& plan, double flops_per_second);

// plan_report.cc. `flops_per_second` is absent where no rate was measured.
nlohmann::ordered_json plan_to_json(const FilmPlan& plan, std::optional<double> flops_per_second);
std::string plan_to_table(const FilmPlan& plan, std::optional<double> flops_per_second);

}  // namespace moga
