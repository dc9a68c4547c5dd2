// Toy films: a small drawn world from which memory across shots can be learned and measured.
//
// A character's looks are told only in the caption of its first shot; later captions use a name that carries
// no looks. So the right looks in later shots can come only through attention across shots.
#pragma once

#include <array>
#include <cstdint>
#include <opencv2/core.hpp>
#include <string>
#include <vector>

#include "script/film_script.h"

namespace moga {

// Every caption has one of two forms, from a vocabulary of about 60 words:
//   "Mia is a round red creature with a blue top hat. Mia walks left in the meadow, wide shot."   (first
//   shot) "Mia jumps in the snow, close-up."                                                       (all later
//   shots)
// A shot shows exactly one character, always whole. Consecutive shots differ in place, so that every cut is
// seen. The hat never has the body's colour.

// A character's looks: one value of each attribute. Values index attribute_values(attribute).
enum class Attribute { kShape, kColour, kHat, kHatColour };
inline constexpr int kAttributeCount = 4;
const std::string& attribute_name(Attribute attribute);
const std::vector<std::string>& attribute_values(Attribute attribute);
// The words of captions: "in the meadow", "walks left", "wide shot". ToyShot's numbers index these lists.
const std::vector<std::string>& toy_places();
const std::vector<std::string>& toy_motions();
const std::vector<std::string>& toy_framings();
const std::vector<std::string>& toy_names();

using Looks = std::array<int, kAttributeCount>;

struct ToyCharacter {
  std::string name;
  Looks looks;
};

struct ToyShot {
  int character = 0;        // index into ToyFilm::characters: who is on screen
  bool introduces = false;  // this shot's caption tells the looks
  int place = 0;
  int motion = 0;
  int framing = 0;
  int64_t first_frame = 0;
  int64_t frame_count = 0;
  std::string caption;
};

struct ToyFilm {
  uint64_t seed = 0;
  std::vector<ToyCharacter> characters;
  std::vector<ToyShot> shots;
  FilmScript script;  // what a user would write for this film
  int64_t total_frames() const;
};

struct ToyFilmSettings {
  int64_t width = 128;
  int64_t height = 80;
  double fps = 8;
  int64_t min_shots = 2;
  int64_t max_shots = 14;
  // Total length: 4n + 1 frames, drawn between these bounds (the shots' lengths are drawn to fit).
  int64_t min_frames = 33;
  int64_t max_frames = 481;
  int64_t min_shot_frames = 8;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("width", s.width, "Picture width in pixels, even, at least 32");
    v("height", s.height, "Picture height in pixels, even, at least 32");
    v("fps", s.fps, "Frames a second (only written into the script)");
    v("min_shots", s.min_shots, "Fewest shots a film");
    v("max_shots", s.max_shots, "Most shots a film");
    v("min_frames", s.min_frames, "Shortest film in frames (rounded up to 4n + 1)");
    v("max_frames", s.max_frames, "Longest film in frames (rounded down to 4n + 1)");
    v("min_shot_frames", s.min_shot_frames,
      "Shortest shot in frames (rounded up to 4n, or 4n + 1 in the first)");
  }
};

// Deterministic: same seed and settings, same film on every machine (no std:: distributions). Shots average
// at most 64 frames where max_shots allows. Throws Error if no film satisfies the settings.
ToyFilm make_toy_film(uint64_t seed, const ToyFilmSettings& settings);

// Frame `index` (0-based in the film) as CV_8UC3 RGB, width x height. Pure: any order, any thread. Throws
// Error if the film has no such frame.
cv::Mat draw_toy_frame(const ToyFilm& film, int64_t index, const ToyFilmSettings& settings);
// The character's mask in that frame: CV_8UC1, 255 where the character (with hat) is, 0 elsewhere.
cv::Mat draw_toy_mask(const ToyFilm& film, int64_t index, const ToyFilmSettings& settings);

// `count` captions of random films in both forms, after a first few that hold every word of the world (to
// train a tokenizer on).
std::vector<std::string> toy_caption_corpus(uint64_t seed, int64_t count);

}  // namespace moga
