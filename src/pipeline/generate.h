// From a film script to a film: text encoder, diffusion transformer, solver and VAE meet here and nowhere
// else.
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "attention/visual_attention_config.h"
#include "distributed/communicator.h"
#include "model/model_folder.h"
#include "pipeline/film_latents.h"
#include "pipeline/guided_denoiser.h"
#include "script/film_script.h"

namespace moga {

struct GenerateRequest {
  FilmScript script;
  ModelSource model;
  std::filesystem::path output;  // film.mp4
  // Each overrides the script, which overrides the model's defaults.
  std::optional<uint64_t> seed;
  std::optional<std::string> solver;
  std::optional<int64_t> steps;
  std::optional<double> guidance;
  std::optional<double> shift;
  GuidancePasses passes = GuidancePasses::kSeparate;
  std::optional<AttentionKind> attention;  // replaces the model's visual attention (for comparisons)
  std::filesystem::path prompt_cache;      // folder of text embeddings; empty: none are kept
  bool groups = false;                     // keep the routers' groups for the group pictures
  std::optional<int64_t>
      group_step;                 // denoising step whose groups are kept, from 0; absent: three quarters in
  std::filesystem::path preview;  // folder for preview pictures; empty for none
  int64_t preview_every = 5;
  int64_t checkpoint_every = 0;  // steps between saves of the unfinished latents; 0 for none
  bool resume = false;           // go on from latents that an interrupted run saved
  // Processes that make the film together, each with a share of its tokens; null: this one alone. The first
  // encodes text and pictures and writes files.
  std::shared_ptr<Communicator> ranks;
};

// What scripts for a model are checked against.
ScriptDefaults script_defaults(const ModelConfig& model);

// Where a run keeps its latents until the film is written: OUTPUT with ".latents.safetensors" in place of
// ".mp4".
std::filesystem::path latents_path(const std::filesystem::path& output);

// What a script will be generated with, everything decided. Throws Error if the script does not fit the model
// (size not a multiple of 16, too small for the windows, ...) or the model folder is not complete.
FilmSettings decide_settings(const GenerateRequest& request, const ModelFolder& model);

// Runs the whole denoising and returns the latents, which are saved at latents_path() before this returns.
// Reproducible bit for bit on one machine and thread count: noise comes from a CPU generator seeded with the
// film's seed; with several processes, the same film but for rounding. Throws Error before any work on
// anything that can be known then.
FilmLatents sample_film(const GenerateRequest& request, torch::Device device);

}  // namespace moga
