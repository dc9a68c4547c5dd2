// Films encoded once by the frozen VAE: what the diffusion transformer is trained on.
//
// Dimensions: P films, Z latent channels, F latent frames, h x w latent rows and columns.
#pragma once

#include <torch/torch.h>

#include <filesystem>
#include <string>
#include <vector>

#include "data/film_source.h"
#include "model/wan_vae.h"

namespace moga {

struct LatentPool {
  torch::Tensor latents_PZFHW;                     // float16, normalised
  std::vector<std::vector<int64_t>> shot_starts;   // a film, within F
  std::vector<std::vector<std::string>> captions;  // a film, one a shot
  std::vector<std::string> skipped;                // films that could not be used, with the reason
};

// Encodes the first `latent_frames` latent frames of every film of `config`; shorter or unreadable films are
// skipped and listed (Error if none is left). The result is kept in `cache_folder` under a name made from the
// data settings and `vae_hash`, and read from there the next time.
LatentPool make_latent_pool(const DataConfig& config, int64_t width, int64_t height, int64_t latent_frames,
                            WanVae vae, const std::string& vae_hash,
                            const std::filesystem::path& cache_folder);

}  // namespace moga
