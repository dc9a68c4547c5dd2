// Films encoded once by the frozen VAE: what the diffusion transformer is trained on. Each is a file of its
// own under a name made from its content, so that runs, stages and processes share what they can, add to it
// at the same time, and never read what another VAE or other captions made:
//
//   CACHE/3f/8a...2c.safetensors    "latents" [Z, F, h, w] float16, normalised; shots and captions as
//   metadata
//
// Dimensions: Z latent channels, F latent frames, h x w latent rows and columns.
#pragma once

#include <torch/torch.h>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "data/film_source.h"
#include "model/wan_vae.h"
#include "training/train_config.h"

namespace moga {

struct EncodedFilm {
  std::string name;
  std::filesystem::path file;         // has "latents", at least as many frames as its bucket
  size_t bucket = 0;                  // index into the buckets that were asked for
  std::vector<int64_t> shot_starts;   // within the bucket's latent frames
  std::vector<std::string> captions;  // one a shot
};

struct EncodedFilms {
  std::vector<EncodedFilm> films;    // in the order of the data
  std::vector<std::string> skipped;  // those that cannot be used, with the reason
};

// Where latents come from when they are not in the cache.
struct LatentSource {
  std::string vae_hash;         // ModelFolder::vae_fingerprint()
  std::function<WanVae()> vae;  // called when the first film must be encoded
  std::filesystem::path cache;
};

// The bucket of a film: of those whose latent frames it can fill, the ones with the nearest shape (ratio of
// width to height), and of these the one with the most latent frames. `buckets` have their sizes filled in.
// Nothing if the film is too short for all.
std::optional<size_t> choose_bucket(const FilmShape& film, const std::vector<BucketConfig>& buckets);

// Sorts the films of `config` into `buckets` and encodes those that the cache lacks. Films that are too
// short, unreadable or without captions are skipped, logged and listed; Error if none is left. A damaged file
// of the cache is made anew.
EncodedFilms encode_films(const DataConfig& config, const std::vector<BucketConfig>& buckets,
                          const LatentSource& source);

// Tensors read from files as they are needed, of which the first are kept in memory.
class TensorReader {
 public:
  explicit TensorReader(double memory_gib) : room_(memory_gib * 1024 * 1024 * 1024) {}
  // The tensor `name` of a safetensors file, cut to the first `rows` of dimension `dim`.
  torch::Tensor read(const std::filesystem::path& file, const char* name, int64_t dim, int64_t rows);

 private:
  double room_;  // bytes left
  std::map<std::string, torch::Tensor> kept_;
};

}  // namespace moga
