// What the GPU benchmarks measure: the 1.3B model at 832x480 with random weights, and its FLOPs.
//
// FLOPs of attention: 4 * pairs * D * N forward and 2.5 times that backward, pairs being queries times keys
// summed over the segments that were there. Routing, sorting and moving rows are inside the time and not in
// the count.
#pragma once

#include <fmt/format.h>
#include <torch/torch.h>

#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "attention/visual_attention.h"
#include "base/error.h"
#include "bench/visual_pairs.h"
#include "model/wan_dit.h"
#include "model/weights.h"

namespace moga::bench {

inline constexpr int64_t kHeads = 12;
inline constexpr int64_t kHeadSize = 128;
inline constexpr int64_t kRows = 30;  // 832x480 in tokens of 16 x 16 pixels
inline constexpr int64_t kCols = 52;
inline constexpr int64_t kShotFrames = 20;  // five seconds of 16 frames each

inline torch::TensorOptions gpu(torch::ScalarType type) {
  return torch::TensorOptions().device(torch::kCUDA).dtype(type);
}

inline FilmLayout film_of(int64_t latent_frames) {
  FilmLayout layout{latent_frames, kRows, kCols, {}};
  for (int64_t f = 0; f < latent_frames; f += kShotFrames) {
    layout.shot_starts.push_back(f);
  }
  return layout;
}

inline MogaConfig attention_config(int64_t groups) {  // 0: full attention
  MogaConfig config;
  config.kind = groups == 0 ? AttentionKind::kFull : AttentionKind::kMoga;
  config.groups = std::max<int64_t>(groups, 1);
  return config;
}

inline double attention_flops(double pairs, bool backward) {
  return 4.0 * pairs * static_cast<double>(kHeads * kHeadSize) * (backward ? 3.5 : 1.0);
}

// Weights straight on the GPU, of type `half` where `narrow` says so of their name and float32 elsewhere: the
// width-scaled normal numbers keep activations in range.
inline void fill_weights(torch::nn::Module& module, torch::ScalarType half,
                         const std::function<bool(const std::string&)>& narrow) {
  const torch::NoGradGuard guard;
  for (auto& item : module.named_parameters()) {
    const auto type = narrow(item.key()) ? half : torch::kFloat32;
    const auto sizes = item.value().sizes().vec();
    const int64_t fan_in = item.value().numel() / std::max<int64_t>(sizes[0], 1);
    torch::Tensor value;
    if (item.key().find("norm") != std::string::npos || item.key().find("gamma") != std::string::npos) {
      value = torch::ones(sizes, gpu(type));
    } else if (sizes.size() == 1) {
      value = torch::zeros(sizes, gpu(type));
    } else {
      value = torch::randn(sizes, gpu(type)) / std::sqrt(static_cast<double>(fan_in));
    }
    item.value().set_data(value);
  }
  for (auto& buffer : module.named_buffers()) {
    buffer.value().set_data(buffer.value().to(torch::kCUDA, half));
  }
}

// "120:5": 120 latent frames, five groups; 0 groups: full attention.
inline std::pair<int64_t, int64_t> parse_case(const std::string& text) {
  const size_t colon = text.find(':');
  MOGA_CHECK(colon != std::string::npos, "a case is FRAMES:GROUPS, such as 120:5, found '{}'", text);
  return {std::stoll(text.substr(0, colon)), std::stoll(text.substr(colon + 1))};
}

inline std::string case_name(int64_t groups) {
  return groups == 0 ? "full" : fmt::format("moga M={}", groups);
}

struct Network {
  WanDit dit{nullptr};
  DitPlan plan;
  torch::Tensor latent, timestep, captions;
};

// With `ranks`, their share of it: all make the same weights and inputs.
inline Network make_network(int64_t frames, int64_t groups, torch::ScalarType weights,
                            const std::shared_ptr<Communicator>& ranks = nullptr) {
  DitConfig config;
  config.attention = attention_config(groups);
  Network net;
  {
    const BareWeights bare;
    net.dit = WanDit(config);
  }
  torch::manual_seed(4);
  fill_weights(*net.dit, weights, [](const std::string& name) { return !stays_float32(name); });
  const FilmLayout film = film_of(frames);
  net.plan = plan_dit({film}, GlobalText::kNone, config, torch::kCUDA, torch::kFloat32, nullptr, ranks);
  net.latent = torch::randn({1, config.in_channels, frames, 2 * kRows, 2 * kCols}, gpu(torch::kFloat32));
  net.timestep = torch::full({1}, 500.0, gpu(torch::kFloat32));
  net.captions = torch::randn({1, net.plan.captions, 64, config.text_dim}, gpu(torch::kFloat32)) * 0.1;
  return net;
}

// Products of all linear layers of a forward pass, and attention by its groups; of all ranks.
inline double step_flops(const Network& net, double visual_pairs) {
  const DitConfig& c = net.dit->config();
  const auto tokens = static_cast<double>(net.plan.layout.tokens());
  const double rows = static_cast<double>(net.plan.captions * c.text_len);
  const auto width = static_cast<double>(c.dim);
  const double per_block = 2 * tokens * width * (6 * width + 2 * static_cast<double>(c.ffn_dim)) +
                           2 * rows * width * 2 * width +
                           4 * width * (visual_pairs + tokens * static_cast<double>(c.text_len));
  return static_cast<double>(c.layers) * per_block;
}

inline double visual_pairs(Network& net, const std::vector<Routing>& routing) {
  return visual_pairs(net.dit->config(), net.plan.visual, routing);
}

}  // namespace moga::bench
