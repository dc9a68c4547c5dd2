// The kinds of training. Each runs all its stages (resuming from config.work) and puts the result into
// config.model.
#pragma once

#include <torch/torch.h>

#include <filesystem>
#include <functional>
#include <string>

#include "model/model_parts.h"
#include "training/loop.h"
#include "training/train_config.h"

namespace moga {

struct TrainOptions {
  bool accept_changes = false;  // see RunOptions
  // Makes `film` from a script with a model as it is now; absent: no sample films. (Generating is the
  // pipeline's business, which training does not know.)
  std::function<void(const ModelSource& model, const std::filesystem::path& script,
                     const std::filesystem::path& film)>
      make_sample;
  std::optional<Mesh> mesh = {};  // of several processes, which all call; see RunOptions
};

// Reconstruction plus Kullback-Leibler term; then measures the latent scale over the films and saves it with
// the VAE.
TrainEnd train_vae(const TrainConfig& config, torch::Device device, const TrainOptions& options = {});

// Rectified flow on latents of the frozen VAE, plus the balancing loss summed over layers. With trained: lora
// the result is config.lora.file instead.
TrainEnd train_dit(const TrainConfig& config, torch::Device device, const TrainOptions& options = {});

// A sentencepiece model of toy captions.
TrainEnd train_toy_tokenizer(const TrainConfig& config);

}  // namespace moga
