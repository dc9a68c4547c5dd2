// Looking at real clips through the model: reconstruction by the VAE, and the router's groups.
#pragma once

#include <torch/torch.h>

#include <filesystem>
#include <optional>
#include <string>

#include "model/model_parts.h"

namespace moga {

struct ReconstructRequest {
  std::filesystem::path clip;
  ModelSource model;
  std::filesystem::path output;  // the decoded clip; empty for none
  int64_t width = 0;  // the clip is scaled to this size (multiples of 8); 0: its own, cropped to fit
  int64_t height = 0;
  int64_t max_frames = 0;  // 0: all
};

struct ReconstructResult {
  int64_t frames = 0;
  int64_t width = 0;
  int64_t height = 0;
  double psnr_db = 0;  // over all pixels of all frames, 8-bit peak
};

// Streams the clip through encoder and decoder; memory does not grow with length.
ReconstructResult reconstruct_clip(const ReconstructRequest& request, torch::Device device);

struct ClipGroupsRequest {
  std::filesystem::path clip;
  ModelSource model;
  std::filesystem::path output;  // groups.mp4; a PNG sheet is written beside it
  std::string caption;
  std::optional<int64_t> layer;  // absent: the middle one
  double noise_level = 0.3;      // 0..1: the clip's latents are noised to this level, as in denoising
  int64_t width = 0;             // 0: the model's size
  int64_t height = 0;
  int64_t max_frames = 81;
  uint64_t seed = 0;
};

struct ClipGroupsResult {
  int64_t frames = 0;
  std::vector<double> occupancy;  // share of tokens a group, of the drawn layer
};

// Encodes the clip, noises it, asks the routers for the groups of one pass, and colours the clip's frames.
ClipGroupsResult draw_clip_groups(const ClipGroupsRequest& request, torch::Device device);

}  // namespace moga
