#include "data/toy_export.h"

#include <opencv2/imgcodecs.hpp>
#include <vector>

#include "base/atomic_file.h"
#include "base/error.h"
#include "media/video.h"

namespace moga {
namespace {

constexpr int64_t kMostRows = 1000000;

void check_rows(const ToyFilm& film, const ToyFilmSettings& settings) {
  const int64_t rows = film.total_frames() * settings.height;
  MOGA_CHECK(
      rows <= kMostRows,
      "toy film: expected at most {} rows in the mask picture, found {} ({} frames of {}); make the film "
      "shorter or smaller",
      kMostRows, rows, film.total_frames(), settings.height);
}

}  // namespace

nlohmann::ordered_json toy_film_json(const ToyFilm& film, const ToyFilmSettings& settings,
                                     const std::string& stem) {
  nlohmann::ordered_json out;
  out["format"] = "moga toy film 1";
  out["seed"] = film.seed;
  out["width"] = settings.width;
  out["height"] = settings.height;
  out["fps"] = settings.fps;
  out["frames"] = film.total_frames();
  out["video"] = stem + ".mp4";
  out["script"] = stem + ".yaml";
  out["masks"] = stem + "_masks.png";
  out["characters"] = nlohmann::ordered_json::array();
  for (const ToyCharacter& character : film.characters) {
    nlohmann::ordered_json looks;
    for (int a = 0; a < kAttributeCount; ++a) {
      const auto attribute = static_cast<Attribute>(a);
      const auto value = static_cast<size_t>(character.looks[static_cast<size_t>(a)]);
      looks[attribute_name(attribute)] = attribute_values(attribute).at(value);
    }
    out["characters"].push_back({{"name", character.name}, {"looks", looks}});
  }
  out["cuts"] = nlohmann::ordered_json::array();
  out["shots"] = nlohmann::ordered_json::array();
  for (const ToyShot& shot : film.shots) {
    if (shot.first_frame > 0) {
      out["cuts"].push_back(shot.first_frame);
    }
    out["shots"].push_back({{"first_frame", shot.first_frame},
                            {"frames", shot.frame_count},
                            {"character", film.characters.at(static_cast<size_t>(shot.character)).name},
                            {"introduces", shot.introduces},
                            {"place", toy_places().at(static_cast<size_t>(shot.place))},
                            {"motion", toy_motions().at(static_cast<size_t>(shot.motion))},
                            {"framing", toy_framings().at(static_cast<size_t>(shot.framing))},
                            {"caption", shot.caption}});
  }
  return out;
}

cv::Mat toy_mask_strip(const ToyFilm& film, const ToyFilmSettings& settings) {
  check_rows(film, settings);
  const auto height = static_cast<int>(settings.height);
  cv::Mat strip(static_cast<int>(film.total_frames()) * height, static_cast<int>(settings.width), CV_8UC1);
  for (int f = 0; f < static_cast<int>(film.total_frames()); ++f) {
    cv::Mat rows = strip.rowRange(f * height, (f + 1) * height);
    draw_toy_mask(film, f, settings).copyTo(rows);
  }
  return strip;
}

void write_toy_film(const ToyFilm& film, const ToyFilmSettings& settings, const std::filesystem::path& folder,
                    const std::string& stem, const std::function<void()>& each_frame) {
  check_rows(film, settings);
  VideoSettings video;
  video.width = settings.width;
  video.height = settings.height;
  video.fps = settings.fps;
  video.title = film.script.title;
  VideoWriter writer(folder / (stem + ".mp4"), video);
  for (int64_t i = 0; i < film.total_frames(); ++i) {
    writer.write(draw_toy_frame(film, i, settings));
    if (each_frame) {
      each_frame();
    }
  }
  writer.finish();
  std::vector<uint8_t> png;
  MOGA_CHECK(cv::imencode(".png", toy_mask_strip(film, settings), png, {cv::IMWRITE_PNG_BILEVEL, 1}),
             "{}_masks.png: OpenCV cannot encode PNG", (folder / stem).string());
  write_file_atomic(folder / (stem + "_masks.png"), {reinterpret_cast<const char*>(png.data()), png.size()});
  write_file_atomic(folder / (stem + ".yaml"), script_to_yaml(film.script));
  write_file_atomic(folder / (stem + ".json"), toy_film_json(film, settings, stem).dump(2) + "\n");
}

}  // namespace moga
