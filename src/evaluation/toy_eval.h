// How good a toy model is, measured on held-out toy scripts by the judge and the cut detector.
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "attention/visual_attention_config.h"
#include "data/toy_world.h"

namespace moga {

struct ToyEvalRequest {
  std::filesystem::path model;
  std::filesystem::path judge;  // judge.safetensors; empty: the model folder's
  std::filesystem::path work;   // films' latents are kept here while they are made
  int64_t films = 20;
  uint64_t first_seed = 900000000;  // held out: training draws its films from seeds below 10,000,000
  int64_t min_shots = 3;
  int64_t max_shots = 5;
  int64_t frames = 65;
  int64_t vae_films = 20;
  std::optional<int64_t> steps;
  std::optional<double> guidance;
  std::optional<AttentionKind> attention;
};

// Right of how many.
struct Tally {
  int64_t right = 0;
  int64_t count = 0;
  double share() const { return count == 0 ? 0 : static_cast<double>(right) / static_cast<double>(count); }
};

struct ToyEvalResult {
  double vae_psnr_db = 0;  // mean over films of true toy films through the VAE
  int64_t vae_films = 0;
  Tally told;            // single attributes in shots whose caption tells them
  Tally told_all;        // such shots with all attributes right
  Tally remembered;      // single attributes in shots whose caption does not tell them
  Tally remembered_all;  // such shots with all attributes right
  Tally cuts;            // the script's cuts that are detected within one frame
  int64_t false_cuts = 0;
  double seconds_a_film = 0;
};

// Generates every film in memory and judges it. Throws Error on a model or judge that cannot be used.
ToyEvalResult evaluate_toy(const ToyEvalRequest& request, torch::Device device);

nlohmann::ordered_json toy_eval_json(const ToyEvalResult& result);
std::string toy_eval_text(const ToyEvalResult& result);

}  // namespace moga
