#include "data/latent_film.h"

#include <algorithm>

#include "base/error.h"
#include "io/safetensors.h"
#include "script/film_script.h"

namespace moga {

namespace fs = std::filesystem;

namespace {

constexpr const char* kFormat = "moga latent film 1";

std::string size_text(int64_t width, int64_t height) {
  return fmt::format("{}x{}", width, height);
}

}  // namespace

void write_latent_film(const fs::path& file, const torch::Tensor& latents_ZFHW, const std::string& vae,
                       int64_t width, int64_t height) {
  write_safetensors(file, {{"latents", latents_ZFHW}},
                    {{"format", kFormat}, {"vae", vae}, {"size", size_text(width, height)}});
}

std::vector<fs::path> list_latent_films(const fs::path& folder) {
  MOGA_CHECK(fs::is_directory(folder), "no such folder of latent films: '{}'", folder.string());
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (entry.path().extension() == ".safetensors" && !name.starts_with(".")) {
      files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  MOGA_CHECK(!files.empty(), "no latent films (.safetensors with .yaml beside them) in {}", folder.string());
  return files;
}

LatentFilm read_latent_film(const fs::path& file, const std::string& vae, int64_t width, int64_t height) {
  const SafetensorsFile stored(file);
  const auto value = [&](const char* key) {
    const auto found = stored.metadata().find(key);
    return found == stored.metadata().end() ? std::string() : found->second;
  };
  MOGA_CHECK(value("format") == kFormat, "{}: expected a latent film, found something else", file.string());
  MOGA_CHECK(value("vae") == vae, "{}: its latents come from another VAE (or the VAE was trained on since)",
             file.string());
  MOGA_CHECK(value("size") == size_text(width, height), "{}: a film of {}, the model takes {}x{}",
             file.string(), value("size"), width, height);
  LatentFilm film;
  film.name = file.filename().string();
  film.latents_ZFHW = stored.read("latents");
  const FilmScript script = load_script(fs::path(file).replace_extension(".yaml"));
  MOGA_CHECK(film.latents_ZFHW.dim() == 4 && film.latents_ZFHW.size(1) == script.latent_frames(),
             "{}: {} latent frames, its script asks for {}", file.string(),
             film.latents_ZFHW.dim() == 4 ? film.latents_ZFHW.size(1) : 0, script.latent_frames());
  film.shot_starts = script.shot_starts();
  for (const Shot& shot : script.shots) {
    film.captions.push_back(shot.text);
  }
  return film;
}

}  // namespace moga
