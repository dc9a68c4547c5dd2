// Where training films come from: the toy world, or a folder of clips with captions beside them.
#pragma once

#include <torch/torch.h>

#include <array>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/config.h"
#include "data/toy_world.h"

namespace moga {

struct TrainingFilm {
  std::string name;
  torch::Tensor video_TCHW;           // [T, 3, H, W] uint8 RGB, T = 4n + 1
  std::vector<int64_t> shot_starts;   // first latent frame of each shot
  std::vector<std::string> captions;  // one a shot
};

enum class DataKind { kToy, kFolder, kLatents };
template <>
struct EnumNames<DataKind> {
  static constexpr std::array<std::pair<DataKind, const char*>, 3> kNames = {
      {{DataKind::kToy, "toy"}, {DataKind::kFolder, "folder"}, {DataKind::kLatents, "latents"}}};
};

struct DataConfig {
  DataKind kind = DataKind::kToy;
  uint64_t seed = 1;     // toy: film i is drawn from seed + i
  int64_t films = 1000;  // toy: how many films
  ToyFilmSettings toy;
  std::string
      folder;  // folder: clips with NAME.yaml (a film script) or NAME.txt (a caption a line) beside them
  int64_t max_frames = 81;  // folder: frames taken from the start of a clip at most

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("kind", s.kind,
      "Where films come from: toy (drawn), folder (clips with captions) or latents (encoded films, dit "
      "only)");
    v("seed", s.seed, "toy: film i is drawn from seed + i");
    v("films", s.films, "toy: number of films");
    v("toy", s.toy, "toy: size, shots and length of the films");
    v("folder", s.folder,
      "folder: clips with NAME.yaml (a film script) or NAME.txt (one caption, or one a shot) beside them; "
      "latents: "
      "NAME.safetensors with NAME.yaml");
    v("max_frames", s.max_frames, "folder: frames taken from the start of a clip at most");
  }
};

// A film's own size, known without decoding it.
struct FilmShape {
  int64_t width = 0;
  int64_t height = 0;
  int64_t frames = 0;  // 4n + 1, at most DataConfig::max_frames; a container may be wrong about it
};

// All methods are thread-safe, give the same every time, and throw Error if a clip cannot be used.
class FilmSource {
 public:
  virtual ~FilmSource() = default;
  virtual int64_t size() const = 0;
  virtual FilmShape shape(int64_t index) const = 0;
  // Equal for films of equal pictures and captions, whatever their names: for caches.
  virtual std::string identity(int64_t index) const = 0;
  // Film `index`, filling width x height pixels: scaled, and its longer side cut off evenly.
  virtual TrainingFilm film(int64_t index, int64_t width, int64_t height) const = 0;
  TrainingFilm film(int64_t index) const { return film(index, width_, height_); }

 protected:
  FilmSource(int64_t width, int64_t height) : width_(width), height_(height) {}
  int64_t width_;
  int64_t height_;
};

// width x height: the size that film(index) has (pixels, multiples of 16).
std::unique_ptr<FilmSource> open_films(const DataConfig& config, int64_t width, int64_t height);

// Cuts (first frame of each new shot) -> first latent frame of each shot; each cut goes to the nearest 4n +
// 1, and a cut that would leave a shot empty is dropped.
std::vector<int64_t> cuts_to_shot_starts(const std::vector<int64_t>& cuts, int64_t frames);

}  // namespace moga
