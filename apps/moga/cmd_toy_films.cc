// moga toy-films: toy films with scripts, captions, cuts and masks, as files.
#include <cmath>
#include <filesystem>
#include <memory>
#include <optional>

#include "base/error.h"
#include "base/progress.h"
#include "commands.h"
#include "data/toy_export.h"

namespace moga {
namespace {

struct ToyFilmsRequest {
  int64_t count = 10;
  std::filesystem::path out;
  uint64_t seed = 0;
  ToyFilmSettings settings;
  std::optional<double> seconds;
};

void write_toy_films(ToyFilmsRequest request) {
  MOGA_CHECK(request.count >= 1 && request.count <= 100000, "--count: expected 1 to 100000, found {}",
             request.count);
  if (request.seconds) {
    const double wanted = *request.seconds * request.settings.fps;
    MOGA_CHECK(std::isfinite(wanted) && wanted >= 1 && wanted <= 100000,
               "--seconds: expected a length of 1 to 100000 frames, found {} s at {} fps", *request.seconds,
               request.settings.fps);
    request.settings.min_frames = request.settings.max_frames = 4 * std::llround((wanted - 1) / 4) + 1;
  }
  int64_t frames = 0;
  for (int64_t i = 0; i < request.count; ++i) {
    frames += make_toy_film(request.seed + static_cast<uint64_t>(i), request.settings).total_frames();
  }
  Progress progress("toy films", frames, "frame");
  for (int64_t i = 0; i < request.count; ++i) {
    const ToyFilm film = make_toy_film(request.seed + static_cast<uint64_t>(i), request.settings);
    write_toy_film(film, request.settings, request.out, fmt::format("film_{:05}", i),
                   [&] { progress.advance(); });
  }
  progress.finish();
  fmt::print("{} films, {} frames in {}\n", request.count, frames, request.out.string());
}

}  // namespace

void add_toy_films(CLI::App& app) {
  auto request = std::make_shared<ToyFilmsRequest>();
  ToyFilmSettings& settings = request->settings;
  CLI::App* command = app.add_subcommand(
      "toy-films",
      "Draw toy films: small multi-shot films whose characters' looks are told only in their first shot.\n"
      "Film i (from seed + i) becomes film_0000i.mp4, .yaml (its script), .json (captions, looks, cuts) and\n"
      "_masks.png (the creature's mask in every frame, one frame below the other). Same options, same "
      "films.");
  command->add_option("-n,--count", request->count, "How many films")->capture_default_str();
  command->add_option("-o,--out", request->out, "Folder for the films; made if it is missing")->required();
  command->add_option("--seed", request->seed, "Seed of the first film")->capture_default_str();
  command->add_option("--min-shots", settings.min_shots, "Fewest shots a film")->capture_default_str();
  command->add_option("--max-shots", settings.max_shots, "Most shots a film")->capture_default_str();
  auto* least = command->add_option("--min-frames", settings.min_frames, "Shortest film in frames (4n + 1)")
                    ->capture_default_str();
  auto* most = command->add_option("--max-frames", settings.max_frames, "Longest film in frames (4n + 1)")
                   ->capture_default_str();
  command
      ->add_option(
          "--seconds", request->seconds,
          "Length of every film in seconds, to the nearest 4n + 1 frames (instead of --min/max-frames)")
      ->excludes(least)
      ->excludes(most);
  command->add_option("--min-shot-frames", settings.min_shot_frames, "Shortest shot in frames")
      ->capture_default_str();
  command->add_option("--width", settings.width, "Picture width in pixels, even")->capture_default_str();
  command->add_option("--height", settings.height, "Picture height in pixels, even")->capture_default_str();
  command->add_option("--fps", settings.fps, "Frames a second")->capture_default_str();
  command->callback([request] { write_toy_films(*request); });
}

}  // namespace moga
