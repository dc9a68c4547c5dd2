#include "prepare/exports.h"

#include <cmath>
#include <fstream>

#include "base/atomic_file.h"
#include "base/error.h"
#include "data/shot_report.h"

namespace moga {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

namespace {

// A film of latents has no video; then the latents stand in its place.
std::string film_file(const FilmRecord& film) {
  for (const char* extension : {".mp4", ".safetensors"}) {
    for (const std::string& file : film.files) {
      if (file.ends_with(extension)) {
        return "../" + file;
      }
    }
  }
  return "";
}

}  // namespace

std::string film_edl(const VideoRecord& video, const FilmRecord& film) {
  const double fps = std::max(1.0, std::round(video.probe.fps));
  std::string out = fmt::format("TITLE: {}\nFCM: NON-DROP FRAME\n", film.name);
  int64_t record = 0;
  int number = 0;
  for (const FilmShot& shot : film.shots) {
    const auto begin = static_cast<int64_t>(std::llround(shot.begin * fps));
    const auto frames = std::max<int64_t>(1, std::llround(static_cast<double>(shot.frames) / film.fps * fps));
    out += fmt::format("\n{:03d}  AX       V     C        {} {} {} {}\n* FROM CLIP NAME: {}\n", ++number,
                       timecode(begin, fps), timecode(begin + frames, fps), timecode(record, fps),
                       timecode(record + frames, fps), fs::path(video.path).filename().string());
    record += frames;
  }
  return out;
}

void write_exports(const fs::path& out, const fs::path& manifest) {
  const fs::path folder = out / "exports";
  AtomicFolder fresh(folder);
  std::ofstream captions(fresh.path() / "video_caption.jsonl");
  std::ofstream shots(fresh.path() / "shots.jsonl");
  fs::create_directories(fresh.path() / "edl");
  ManifestReader reader(manifest);
  while (const auto video = reader.next()) {
    for (const FilmRecord& film : video->films) {
      Json texts = Json::array();
      Json cuts = Json::array();
      std::string joined;
      for (const FilmShot& shot : film.shots) {
        const std::string& text = video->shots.at(static_cast<size_t>(shot.shot)).caption;
        texts.push_back(text);
        joined += (joined.empty() ? "" : " ") + text;
        if (shot.first_frame > 0) {
          cuts.push_back(shot.first_frame);
        }
      }
      const auto write = [](std::ofstream& stream, const Json& json) {
        stream << json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
      };
      write(captions,
            {{"video", film_file(film)}, {"caption", film.caption.empty() ? joined : film.caption}});
      write(shots, {{"video", film_file(film)},
                    {"global_caption", film.caption},
                    {"shot_captions", texts},
                    {"shot_cut_frames", cuts},
                    {"num_frames", film.frames},
                    {"fps", film.fps}});
      std::ofstream(fresh.path() / "edl" / (film.name + ".edl")) << film_edl(*video, film);
    }
  }
  captions.flush();
  shots.flush();
  MOGA_CHECK(captions.good() && shots.good(), "cannot write to {}", folder.string());
  captions.close();
  shots.close();
  fresh.commit();
}

}  // namespace moga
