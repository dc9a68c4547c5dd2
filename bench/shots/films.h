// The shot benchmark's films: scenes edited together with cuts and transitions, made difficult, with the
// truth.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bench/shots/scenes.h"
#include "data/shots.h"

namespace moga::bench {

// A row of the benchmark's table. All films have hard cuts (two in five between shots of one scene),
// dissolves of 4 to 24 frames, fades through black or white and wipes, unless said otherwise.
struct Category {
  std::string name;
  double fps = 25;
  int crf = 23;       // of x264
  double cuts = 0.5;  // shares of the boundaries; the rest are wipes
  double dissolves = 0.27;
  double fades = 0.13;
  double same_scene = 0.4;  // share of the boundaries that stay in their scene
  double speed = 1;         // of the bodies and of the camera
  double flashes = 0;       // a second
  double whips = 0;         // whip pans a shot
  double darkness = 1;      // brightness is multiplied by this
  double grain = 0;         // standard deviation of the noise in grey levels
  double letterbox = 0;     // share of the height that each bar takes
  double shot_seconds = 3;  // mean length of a shot
  bool toys = false;        // only toy films
  bool clips = false;       // only real clips
};

const std::vector<Category>& categories();

struct Truth {
  BoundaryKind kind = BoundaryKind::kCut;
  int64_t begin = 0;  // mixed frames [begin, end); a cut has begin == end, the first frame of the new shot
  int64_t end = 0;
};

class Film {
 public:
  // `clips`: real clips (may be empty: then painted and toy scenes only).
  Film(const Category& category, uint64_t seed, double seconds,
       const std::vector<std::filesystem::path>& clips);
  ~Film();
  Film(Film&&) noexcept;
  Film& operator=(Film&&) noexcept;

  int64_t frames() const;
  const std::vector<Truth>& truth() const;
  cv::Mat picture(int64_t frame) const;  // pure

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Encodes it as the category says, with pictures `scale` times as large.
void write_film(const Film& film, const Category& category, const std::filesystem::path& path,
                double scale = 1);

// The real clips beside the source folder (../shared/clips), or none.
std::vector<std::filesystem::path> real_clips();

}  // namespace moga::bench
