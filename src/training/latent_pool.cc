#include "training/latent_pool.h"

#include <ATen/Parallel.h>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/fingerprint.h"
#include "base/log.h"
#include "base/progress.h"
#include "data/latent_film.h"
#include "io/safetensors.h"
#include "media/frame_tensor.h"
#include "model/model_folder.h"

namespace moga {

namespace fs = std::filesystem;

namespace {

struct Loaded {
  TrainingFilm film;
  std::string problem;
};

Loaded load_film(const FilmSource& source, int64_t index, int64_t frames) {
  Loaded loaded;
  try {
    loaded.film = source.film(index);
    if (loaded.film.video_TCHW.size(0) < frames) {
      loaded.problem = fmt::format("{}: {} frames, {} are needed", loaded.film.name,
                                   loaded.film.video_TCHW.size(0), frames);
    }
  } catch (const Error& error) {
    loaded.problem = error.what();
  }
  return loaded;
}

// Keeps the shots that begin within the first `latent_frames`.
void add_shots(const TrainingFilm& film, int64_t latent_frames, LatentPool& pool) {
  std::vector<int64_t> starts;
  std::vector<std::string> captions;
  for (size_t i = 0; i < film.shot_starts.size() && film.shot_starts[i] < latent_frames; ++i) {
    starts.push_back(film.shot_starts[i]);
    captions.push_back(film.captions[i]);
  }
  pool.shot_starts.push_back(starts);
  pool.captions.push_back(captions);
}

// Films that were encoded before, by the very same VAE.
LatentPool read_latent_films(const DataConfig& config, int64_t width, int64_t height, int64_t latent_frames,
                             const std::string& vae_hash) {
  LatentPool pool;
  std::vector<torch::Tensor> latents;
  for (const fs::path& file : list_latent_films(config.folder)) {
    try {
      const LatentFilm film = read_latent_film(file, vae_hash, width, height);
      const int64_t frames = film.latents_ZFHW.size(1);
      MOGA_CHECK(frames >= latent_frames, "{}: {} latent frames, {} are needed", film.name, frames,
                 latent_frames);
      add_shots({film.name, {}, film.shot_starts, film.captions}, latent_frames, pool);
      latents.push_back(film.latents_ZFHW.slice(1, 0, latent_frames).clone());
    } catch (const Error& error) {
      pool.skipped.emplace_back(error.what());
      spdlog::warn("skipped: {}", error.what());
    }
  }
  MOGA_CHECK(!latents.empty(), "none of the {} latent films in {} can be used: {}", pool.skipped.size(),
             config.folder, pool.skipped.front());
  pool.latents_PZFHW = torch::stack(latents);
  return pool;
}

LatentPool read_pool(const fs::path& file) {
  LatentPool pool;
  const SafetensorsFile stored(file);
  pool.latents_PZFHW = stored.read("latents");
  const auto info = nlohmann::json::parse(stored.metadata().at("films"));
  pool.shot_starts = info["shot_starts"];
  pool.captions = info["captions"];
  pool.skipped = info["skipped"];
  return pool;
}

}  // namespace

LatentPool make_latent_pool(const DataConfig& config, int64_t width, int64_t height, int64_t latent_frames,
                            WanVae vae, const std::string& vae_hash, const fs::path& cache_folder) {
  if (config.kind == DataKind::kLatents) {
    return read_latent_films(config, width, height, latent_frames, vae_hash);
  }
  const std::string key =
      fmt::format("{} {}x{} {} {}", config_to_json(config).dump(), width, height, latent_frames, vae_hash);
  const fs::path file = cache_folder / ("latents_" + content_hash(key) + ".safetensors");
  if (fs::exists(file)) {
    return read_pool(file);
  }
  const torch::NoGradGuard guard;
  const torch::Device device = vae->parameters()[0].device();
  const auto source = open_films(config, width, height);
  const int64_t frames = 4 * latent_frames - 3;
  const int64_t batch = device.is_cuda() ? 32 : 2;
  LatentPool pool;
  std::vector<torch::Tensor> latents;
  Progress progress("encode films", source->size(), "film");
  for (int64_t begin = 0; begin < source->size(); begin += batch) {
    const int64_t count = std::min(batch, source->size() - begin);
    std::vector<Loaded> loaded(static_cast<size_t>(count));
    at::parallel_for(0, count, 1, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) {
        loaded[static_cast<size_t>(i)] = load_film(*source, begin + i, frames);
      }
    });
    std::vector<torch::Tensor> videos;
    for (const Loaded& item : loaded) {
      if (!item.problem.empty()) {
        pool.skipped.push_back(item.problem);
        continue;
      }
      add_shots(item.film, latent_frames, pool);
      videos.push_back(item.film.video_TCHW.slice(0, 0, frames));
    }
    if (!videos.empty()) {
      const torch::Tensor video = bytes_to_unit(torch::stack(videos).to(device)).transpose(1, 2);
      // Piece by piece, so that memory does not grow with the films' length.
      constexpr int64_t kPiece = 16;
      VaeEncodeStream stream(vae);
      std::vector<torch::Tensor> pieces;
      for (int64_t at = 0; at < frames;) {
        const int64_t end = std::min(frames, at == 0 ? kPiece + 1 : at + kPiece);
        pieces.push_back(stream.next(video.slice(2, at, end)).to(torch::kCPU, torch::kFloat16));
        at = end;
      }
      latents.push_back(torch::cat(pieces, 2));
    }
    progress.advance(count);
  }
  progress.finish();
  for (const std::string& reason : pool.skipped) {
    spdlog::warn("skipped: {}", reason);
  }
  MOGA_CHECK(!latents.empty(), "none of the {} films can be used: {}", source->size(), pool.skipped.front());
  pool.latents_PZFHW = torch::cat(latents);
  const nlohmann::json info = {
      {"shot_starts", pool.shot_starts}, {"captions", pool.captions}, {"skipped", pool.skipped}};
  write_safetensors(file, {{"latents", pool.latents_PZFHW}}, {{"films", info.dump()}, {"key", key}});
  return pool;
}

}  // namespace moga
