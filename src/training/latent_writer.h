// Films as latents, for training without a VAE pass.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <opencv2/core.hpp>
#include <optional>
#include <string>

namespace moga {

// Encodes films with the VAE of a model folder, one film at a time (other callers wait).
class LatentWriter {
 public:
  // Throws Error if the folder has no VAE.
  explicit LatentWriter(const std::filesystem::path& model);
  ~LatentWriter();
  // Of the VAE, as training checks it.
  const std::string& vae_hash() const;
  // Takes 4n + 1 RGB pictures from `next` and writes `file`: float16 "latents" [Z, F, H/8, W/8], normalised,
  // with the VAE's hash and the film's size in the metadata (data/latent_film.h reads it).
  void write(const std::filesystem::path& file, const std::function<std::optional<cv::Mat>()>& next);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moga
