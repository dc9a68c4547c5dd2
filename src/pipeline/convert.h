// From a model with full attention to one with groups, and back to the files that other programs read.
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "attention/static_groups.h"
#include "model/model_folder.h"
#include "model/router_start.h"

namespace moga {

// A film to look at: routers are started from, and measured on, what the model makes of it.
struct CalibrationClip {
  torch::Tensor video_TCHW;           // uint8 RGB, T = 4n + 1
  std::vector<int64_t> shot_starts;   // latent frames
  std::vector<std::string> captions;  // one a shot
};

struct ConvertRequest {
  ModelSource model;
  std::filesystem::path output;  // a model folder of ours; replaced if it exists
  int64_t groups = 5;
  WindowConfig windows;
  RouterStart router = RouterStart::kRandom;
  // With clips, the distance to full attention is measured on the last one; k-means takes the others, or the
  // only one.
  std::vector<CalibrationClip> clips;
  std::vector<double> noise_levels = {0.3, 0.6, 0.9};
  int64_t tokens = 4096;  // hidden tokens a block that k-means sees, spread over clips and noise levels
  uint64_t seed = 0;
};

// How far a start is from full attention with the same weights: relative errors |moga - full| / |full| over
// all tokens and noise levels of the measured clip.
struct StartDistance {
  std::vector<double> blocks;  // each block's visual attention, given full attention's own input
  double prediction = 0;       // the model's output, errors of all blocks piled up
  double top_probability = 0;  // mean over blocks
  double largest_group = 0;    // share of the tokens in the largest group, mean over blocks
};

struct ConvertReport {
  std::optional<StartDistance> random;
  std::optional<StartDistance> kmeans;  // only if it was asked for
};

// Writes moga.json and all parts that the model has, in the dtypes that they are stored in, under official
// names, with one router a block (float32). Adapters of the source are not merged. Throws Error before any
// long work if clips do not fit the windows or are missing for k-means.
ConvertReport convert_to_moga(const ConvertRequest& request, torch::Device device);

// Writes the model in the layout of another program, bit for bit as stored, without routers: kWan as the
// official folder (VAE and text encoder as safetensors, not as pickles), kDiffusers as a diffusers folder.
void convert_names(const ModelSource& model, const std::filesystem::path& output, Naming naming);

// config.json as the official or the diffusers transformer has it.
nlohmann::ordered_json dit_config_json(const DitConfig& dit, Naming naming);

nlohmann::ordered_json convert_report_to_json(const ConvertReport& report);

}  // namespace moga
