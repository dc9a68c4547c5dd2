// The kinds of training. Each runs all its stages (resuming from config.work) and puts the result into
// config.model.
#pragma once

#include <torch/torch.h>

#include "training/loop.h"
#include "training/train_config.h"

namespace moga {

// Reconstruction plus Kullback-Leibler term; then measures the latent scale over the films and saves it with
// the VAE.
TrainEnd train_vae(const TrainConfig& config, torch::Device device);

// Rectified flow on latents of the frozen VAE, plus the balancing loss summed over layers.
TrainEnd train_dit(const TrainConfig& config, torch::Device device);

// A sentencepiece model of toy captions.
TrainEnd train_toy_tokenizer(const TrainConfig& config);

}  // namespace moga
