// The stage write: films as MP4 files or latents, each with its film script.
#include <algorithm>
#include <cmath>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

#include "base/atomic_file.h"
#include "base/digest.h"
#include "base/error.h"
#include "media/video.h"
#include "prepare/stages.h"
#include "script/film_script.h"
#include "training/latent_writer.h"

namespace moga {

namespace fs = std::filesystem;

void write_output(const fs::path& file, std::string_view bytes) {
  try {
    write_file_atomic(file, bytes);
  } catch (const Error& error) {
    throw StopRun(error.what());
  }
}

std::string jpeg_strip(const std::vector<cv::Mat>& pictures) {
  cv::Mat strip;
  cv::hconcat(pictures, strip);
  cv::cvtColor(strip, strip, cv::COLOR_RGB2BGR);
  std::vector<uint8_t> bytes;
  MOGA_CHECK(cv::imencode(".jpg", strip, bytes, {cv::IMWRITE_JPEG_QUALITY, 85}), "OpenCV cannot encode JPEG");
  return {bytes.begin(), bytes.end()};
}

namespace {

// The pictures of a video at rising times, each the frame that is on screen then. Times of different frames
// that containers round alike count as one.
class FramesAt {
 public:
  FramesAt(const fs::path& video, int threads) : reader_(video, {0, 0, threads}) {}

  void seek(double seconds) {
    reader_.seek(seconds);
    ended_ = !reader_.advance();
    MOGA_CHECK(!ended_, "no frame could be decoded at {:.3f} s", seconds);
    step();
  }
  // Nothing may be asked for that lies before the last seek.
  const cv::Mat& at(double seconds) {
    constexpr double kSlack = 6e-4;
    while (!ended_ && reader_.seconds() <= seconds + kSlack) {
      step();
    }
    return current_;
  }

 private:
  // The reader's frame becomes the current one, and the reader goes on to see until when that is shown.
  void step() {
    current_ = reader_.picture();
    ended_ = !reader_.advance();
  }

  VideoReader reader_;
  cv::Mat current_;
  bool ended_ = true;
};

// A film's frames in order.
class FilmFrames {
 public:
  FilmFrames(const VideoRecord& video, const FilmRecord& film, StageContext& context)
      : video_(video), film_(film), context_(context), frames_(video.path, context.decoder_threads) {}

  std::optional<cv::Mat> next() {
    if (shot_ == film_.shots.size()) {
      return std::nullopt;
    }
    const FilmShot& shot = film_.shots[shot_];
    if (frame_ == 0) {
      frames_.seek(shot.begin);
    }
    const cv::Mat& picture = frames_.at(shot.begin + static_cast<double>(frame_) / film_.fps);
    cv::Mat out = fitted(picture, video_.shots[static_cast<size_t>(shot.shot)]);
    context_.advance(1 / film_.fps);
    if (++frame_ == shot.frames) {
      frame_ = 0;
      ++shot_;
    }
    return out;
  }

 private:
  cv::Mat fitted(const cv::Mat& picture, const ShotRecord& shot) const {
    const PixelBox crop = shot.crop.value_or(PixelBox{0, 0, picture.cols, picture.rows});
    const cv::Mat part = picture(cv::Rect(static_cast<int>(crop.x), static_cast<int>(crop.y),
                                          static_cast<int>(crop.width), static_cast<int>(crop.height)));
    const cv::Size size(static_cast<int>(film_.width), static_cast<int>(film_.height));
    cv::Mat out;
    const bool smaller = size.width <= part.cols && size.height <= part.rows;
    cv::resize(part, out, size, 0, 0, smaller ? cv::INTER_AREA : cv::INTER_CUBIC);
    return out;
  }

  const VideoRecord& video_;
  const FilmRecord& film_;
  StageContext& context_;
  FramesAt frames_;
  size_t shot_ = 0;
  int64_t frame_ = 0;
};

FilmScript script_of(const VideoRecord& video, const FilmRecord& film) {
  FilmScript script;
  script.title = film.name;
  script.width = film.width;
  script.height = film.height;
  script.fps = film.fps;
  script.global = film.caption;
  for (const FilmShot& part : film.shots) {
    Shot shot;
    shot.text = video.shots[static_cast<size_t>(part.shot)].caption;
    shot.first_frame = part.first_frame;
    shot.frame_count = part.frames;
    script.shots.push_back(shot);
  }
  return script;
}

void write_mp4(const fs::path& file, const VideoRecord& video, const FilmRecord& film,
               const std::string& script, StageContext& context) {
  VideoSettings settings;
  settings.width = film.width;
  settings.height = film.height;
  settings.fps = film.fps;
  settings.crf = static_cast<int>(context.config.write.crf);
  settings.title = film.name;
  const nlohmann::ordered_json comment = {{"script", script},
                                          {"source", fs::path(video.path).filename().string()},
                                          {"source_seconds", film.shots.front().begin}};
  settings.comment = comment.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  FilmFrames frames(video, film, context);
  VideoWriter writer(file, settings);
  while (const auto picture = frames.next()) {
    writer.write(*picture);
  }
  writer.finish();
}

}  // namespace

void run_write(VideoRecord& video, StageContext& context) {
  const WriteForm form = context.config.write.form;
  for (FilmRecord& film : video.films) {
    film.files.clear();
    const std::string script = script_to_yaml(script_of(video, film));
    nlohmann::ordered_json key = {video.probe.fingerprint, config_to_json(film), script};
    for (const FilmShot& shot : film.shots) {
      key.push_back(config_to_json(video.shots[static_cast<size_t>(shot.shot)].crop));
    }
    // Writes folder/NAME.extension and the script beside it, unless an earlier run did; the key comes last.
    const auto write = [&](const std::string& folder, const char* extension, const std::string& with,
                           const std::function<void(const fs::path&)>& make) {
      for (const std::string& name : {film.name + extension, film.name + ".yaml"}) {
        film.files.push_back(folder + "/" + name);
      }
      const fs::path file = context.out / folder / (film.name + extension);
      const fs::path yaml = context.out / folder / (film.name + ".yaml");
      const fs::path done = context.out / "work" / "write" / folder / (film.name + ".key");
      const std::string hash = digest(key.dump() + with) + "\n";
      if (fs::exists(done) && fs::exists(file) && fs::exists(yaml) && read_file(done) == hash) {
        return;
      }
      make(file);
      write_output(yaml, script);
      write_output(done, hash);
    };
    if (form != WriteForm::kLatents) {
      write("films", ".mp4", std::to_string(context.config.write.crf),
            [&](const fs::path& file) { write_mp4(file, video, film, script, context); });
    }
    if (form != WriteForm::kVideo) {
      write("latents", ".safetensors", context.services.latents().vae_hash(), [&](const fs::path& file) {
        FilmFrames frames(video, film, context);
        context.services.latents().write(file, [&] { return frames.next(); });
      });
    }
  }
}

}  // namespace moga
