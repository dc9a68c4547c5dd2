#include "training/encoded_films.h"

#include <ATen/Parallel.h>

#include <cmath>

#include "base/digest.h"
#include "base/error.h"
#include "base/log.h"
#include "base/progress.h"
#include "data/latent_film.h"
#include "io/safetensors.h"
#include "media/frame_tensor.h"

namespace moga {

namespace fs = std::filesystem;

namespace {

constexpr const char* kEncodedFormat = "moga encoded film 1";

fs::path path_of(const fs::path& cache, const std::string& key) {
  const std::string name = digest(key);
  return cache / name.substr(0, 2) / (name.substr(2) + ".safetensors");
}

// Keeps the shots that begin within the bucket.
void set_shots(const std::vector<int64_t>& starts, const std::vector<std::string>& captions,
               int64_t latent_frames, EncodedFilm& film) {
  for (size_t i = 0; i < starts.size() && starts[i] < latent_frames; ++i) {
    film.shot_starts.push_back(starts[i]);
    film.captions.push_back(captions[i]);
  }
}

// True if the file holds this very film; then its shots are taken from there.
bool read_cached(const std::string& key, EncodedFilm& film) {
  if (!fs::exists(film.file)) {
    return false;
  }
  try {
    const SafetensorsFile stored(film.file);
    const auto value = [&](const char* name) {
      const auto found = stored.metadata().find(name);
      return found == stored.metadata().end() ? std::string() : found->second;
    };
    // The name is a hash; the key decides.
    if (value("format") != kEncodedFormat || value("key") != key || !stored.contains("latents")) {
      return false;
    }
    const auto shots = nlohmann::json::parse(value("shots"));
    film.shot_starts = shots.at("starts").get<std::vector<int64_t>>();
    film.captions = shots.at("captions").get<std::vector<std::string>>();
    return true;
  } catch (const std::exception& error) {
    spdlog::warn("{} is encoded anew: {}", film.name, error.what());
    return false;
  }
}

// Films that were encoded before by the very same VAE and lie in a folder of the user's.
EncodedFilms list_latents(const DataConfig& config, const std::vector<BucketConfig>& buckets,
                          const LatentSource& source) {
  EncodedFilms found;
  for (const fs::path& file : list_latent_films(config.folder)) {
    try {
      const auto& size = SafetensorsFile(file).tensors().at("latents").shape;
      MOGA_CHECK(size.size() == 4, "{}: latents of {} dimensions, expected 4", file.string(), size.size());
      const auto bucket = choose_bucket({size[3] * 8, size[2] * 8, 4 * size[1] - 3}, buckets);
      MOGA_CHECK(bucket, "{}: {} latent frames are too few", file.string(), size[1]);
      const BucketConfig& chosen = buckets[*bucket];
      const LatentFilm film = read_latent_film(file, source.vae_hash, chosen.width, chosen.height);
      EncodedFilm entry{film.name, file, *bucket, {}, {}};
      set_shots(film.shot_starts, film.captions, chosen.latent_frames, entry);
      found.films.push_back(std::move(entry));
    } catch (const Error& error) {
      found.skipped.emplace_back(error.what());
    } catch (const std::out_of_range&) {
      found.skipped.push_back(file.string() + ": no tensor 'latents'");
    }
  }
  return found;
}

struct Waiting {
  int64_t index;  // in the source
  std::string key;
  EncodedFilm film;
  torch::Tensor video_TCHW;
  std::string problem;
};

// Decodes what a film needs, on any thread.
void load_pictures(const FilmSource& films, const BucketConfig& bucket, Waiting& waiting) {
  try {
    const int64_t frames = 4 * bucket.latent_frames - 3;
    const TrainingFilm film = films.film(waiting.index, bucket.width, bucket.height);
    MOGA_CHECK(film.video_TCHW.size(0) >= frames, "{}: {} frames, {} are needed", film.name,
               film.video_TCHW.size(0), frames);
    waiting.film.name = film.name;
    waiting.video_TCHW = film.video_TCHW.slice(0, 0, frames);
    set_shots(film.shot_starts, film.captions, bucket.latent_frames, waiting.film);
  } catch (const Error& error) {
    waiting.problem = error.what();
  }
}

// Films of one size, all at once but piece by piece along time, so that memory does not grow with their
// length.
torch::Tensor encode_batch(WanVae& vae, const std::vector<torch::Tensor>& videos) {
  constexpr int64_t kEncodedPiece = 16;
  const torch::Device device = vae->parameters()[0].device();
  const torch::Tensor video_BTCHW = torch::stack(videos);
  VaeEncodeStream stream(vae);
  std::vector<torch::Tensor> pieces;
  for (int64_t at = 0; at < video_BTCHW.size(1);) {
    const int64_t end = std::min(video_BTCHW.size(1), at == 0 ? kEncodedPiece + 1 : at + kEncodedPiece);
    const torch::Tensor piece = bytes_to_unit(video_BTCHW.slice(1, at, end).to(device)).transpose(1, 2);
    pieces.push_back(stream.next(piece).to(torch::kCPU, torch::kFloat16));
    at = end;
  }
  return torch::cat(pieces, 2);
}

// How many films are decoded at once: on all cores, within a gibibyte of pictures.
size_t films_at_once(const BucketConfig& bucket) {
  const int64_t bytes = (4 * bucket.latent_frames - 3) * bucket.width * bucket.height * 3;
  return static_cast<size_t>(std::clamp<int64_t>((int64_t{1} << 30) / bytes, 1, 32));
}

void encode_waiting(const FilmSource& films, const BucketConfig& bucket, std::vector<Waiting>& waiting,
                    WanVae& vae, Progress& progress) {
  // On a CPU each film by itself, so that its latents never depend on its neighbours, not even in rounding: a
  // run that is killed while it encodes must end like any other. GPUs are faster with many, and round as they
  // like.
  const size_t group = films_at_once(bucket);
  const size_t batch = vae->parameters()[0].is_cuda() ? group : 1;
  for (size_t begin = 0; begin < waiting.size(); begin += group) {
    const size_t end = std::min(waiting.size(), begin + group);
    at::parallel_for(static_cast<int64_t>(begin), static_cast<int64_t>(end), 1,
                     [&](int64_t from, int64_t to) {
                       for (int64_t i = from; i < to; ++i) {
                         load_pictures(films, bucket, waiting[static_cast<size_t>(i)]);
                       }
                     });
    std::vector<Waiting*> sound;
    for (size_t i = begin; i < end; ++i) {
      if (waiting[i].problem.empty()) {
        sound.push_back(&waiting[i]);
      }
    }
    for (size_t first = 0; first < sound.size(); first += batch) {
      const std::vector<Waiting*> some(
          sound.begin() + static_cast<std::ptrdiff_t>(first),
          sound.begin() + static_cast<std::ptrdiff_t>(std::min(sound.size(), first + batch)));
      std::vector<torch::Tensor> videos;
      for (Waiting* one : some) {
        videos.push_back(std::exchange(one->video_TCHW, {}));
      }
      const torch::Tensor latents_BZFHW = encode_batch(vae, videos);
      for (size_t i = 0; i < some.size(); ++i) {
        const EncodedFilm& film = some[i]->film;
        const nlohmann::json shots = {{"starts", film.shot_starts}, {"captions", film.captions}};
        write_safetensors(film.file, {{"latents", latents_BZFHW[static_cast<int64_t>(i)]}},
                          {{"format", kEncodedFormat}, {"key", some[i]->key}, {"shots", shots.dump()}});
      }
      progress.advance(static_cast<int64_t>(some.size()));
    }
    progress.advance(static_cast<int64_t>(end - begin - sound.size()));
  }
}

// Films from pictures; the places in `found.films` keep the order of the data.
EncodedFilms encode_pictures(const DataConfig& config, const std::vector<BucketConfig>& buckets,
                             const LatentSource& source) {
  const auto films = open_films(config, buckets.front().width, buckets.front().height);
  std::vector<std::vector<Waiting>> waiting(buckets.size());
  std::map<int64_t, EncodedFilm> ready;
  EncodedFilms found;
  int64_t missing = 0;
  for (int64_t i = 0; i < films->size(); ++i) {
    try {
      const FilmShape shape = films->shape(i);
      const auto bucket = choose_bucket(shape, buckets);
      const std::string identity = films->identity(i);
      MOGA_CHECK(bucket, "film {} ({}): {} frames are too few for any bucket", i, identity, shape.frames);
      const BucketConfig& size = buckets[*bucket];
      Waiting entry{i,
                    fmt::format("{}|{}|{}x{}|{}", identity, source.vae_hash, size.width, size.height,
                                size.latent_frames),
                    {},
                    {},
                    ""};
      entry.film.name = identity;
      entry.film.bucket = *bucket;
      entry.film.file = path_of(source.cache, entry.key);
      if (read_cached(entry.key, entry.film)) {
        ready.emplace(i, std::move(entry.film));
      } else {
        waiting[*bucket].push_back(std::move(entry));
        ++missing;
      }
    } catch (const Error& error) {
      found.skipped.emplace_back(error.what());
    }
  }
  if (missing > 0) {
    const torch::NoGradGuard guard;
    WanVae vae = source.vae();
    Progress progress("encode films", missing, "film");
    for (size_t bucket = 0; bucket < buckets.size(); ++bucket) {
      encode_waiting(*films, buckets[bucket], waiting[bucket], vae, progress);
      for (Waiting& entry : waiting[bucket]) {
        if (entry.problem.empty()) {
          ready.emplace(entry.index, std::move(entry.film));
        } else {
          found.skipped.push_back(entry.problem);
        }
      }
    }
  }
  for (auto& entry : ready) {
    found.films.push_back(std::move(entry.second));
  }
  return found;
}

}  // namespace

std::optional<size_t> choose_bucket(const FilmShape& film, const std::vector<BucketConfig>& buckets) {
  const int64_t latents = (film.frames - 1) / 4 + 1;
  const auto distance = [&](const BucketConfig& bucket) {
    return std::abs(std::log(static_cast<double>(film.width * bucket.height) /
                             static_cast<double>(film.height * bucket.width)));
  };
  std::optional<size_t> best;
  for (size_t i = 0; i < buckets.size(); ++i) {
    const BucketConfig& bucket = buckets[i];
    if (bucket.latent_frames > latents) {
      continue;
    }
    const auto rank = [&](const BucketConfig& candidate) {
      return std::pair(distance(candidate), -candidate.latent_frames);
    };
    if (!best || rank(bucket) < rank(buckets[*best])) {
      best = i;
    }
  }
  return best;
}

EncodedFilms encode_films(const DataConfig& config, const std::vector<BucketConfig>& buckets,
                          const LatentSource& source) {
  EncodedFilms found = config.kind == DataKind::kLatents ? list_latents(config, buckets, source)
                                                         : encode_pictures(config, buckets, source);
  for (const std::string& reason : found.skipped) {
    spdlog::warn("skipped: {}", reason);
  }
  MOGA_CHECK(!found.films.empty(), "none of the {} films can be used; the first: {}", found.skipped.size(),
             found.skipped.empty() ? "there is none" : found.skipped.front());
  return found;
}

torch::Tensor TensorReader::read(const fs::path& file, const char* name, int64_t dim, int64_t rows) {
  const std::string key = fmt::format("{} {} {}", file.string(), dim, rows);
  if (const auto found = kept_.find(key); found != kept_.end()) {
    return found->second;
  }
  torch::Tensor tensor = SafetensorsFile(file).read(name).slice(dim, 0, rows).contiguous();
  const auto bytes = static_cast<double>(tensor.numel()) * static_cast<double>(tensor.element_size());
  if (bytes <= room_) {
    room_ -= bytes;
    kept_.emplace(key, tensor);
  }
  return tensor;
}

}  // namespace moga
