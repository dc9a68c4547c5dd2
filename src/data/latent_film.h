// Films that were encoded once and are kept as latents: NAME.safetensors beside NAME.yaml, its film script.
#pragma once

#include <torch/torch.h>

#include <filesystem>
#include <string>
#include <vector>

namespace moga {

struct LatentFilm {
  std::string name;
  torch::Tensor latents_ZFHW;         // float16, normalised
  std::vector<int64_t> shot_starts;   // first latent frame of each shot
  std::vector<std::string> captions;  // one a shot
};

// `vae` names the VAE (ModelFolder::vae_fingerprint()); width and height are the film's, in pixels.
void write_latent_film(const std::filesystem::path& file, const torch::Tensor& latents_ZFHW,
                       const std::string& vae, int64_t width, int64_t height);

// The films of a folder, sorted by name. Throws Error if there is none.
std::vector<std::filesystem::path> list_latent_films(const std::filesystem::path& folder);

// Throws Error if the film was made by another VAE or for another size, or does not fit its script.
LatentFilm read_latent_film(const std::filesystem::path& file, const std::string& vae, int64_t width,
                            int64_t height);

}  // namespace moga
