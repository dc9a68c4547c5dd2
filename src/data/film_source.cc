#include "data/film_source.h"

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/fingerprint.h"
#include "data/cuts.h"
#include "media/frame_tensor.h"
#include "media/picture.h"
#include "media/video.h"

namespace moga {

namespace fs = std::filesystem;

std::vector<int64_t> cuts_to_shot_starts(const std::vector<int64_t>& cuts, int64_t frames) {
  const int64_t latents = (frames - 1) / 4 + 1;
  std::vector<int64_t> starts = {0};
  for (const int64_t cut : cuts) {
    const int64_t start = (cut - 1 + 2) / 4 + 1;
    if (start > starts.back() && start < latents) {
      starts.push_back(start);
    }
  }
  return starts;
}

namespace {

class ToySource : public FilmSource {
 public:
  ToySource(const DataConfig& config, int64_t width, int64_t height)
      : FilmSource(width, height), config_(config) {
    MOGA_CHECK(config.films >= 1, "expected at least one film, found {}", config.films);
  }
  using FilmSource::film;
  int64_t size() const override { return config_.films; }
  FilmShape shape(int64_t index) const override {
    return {width_, height_, make_toy_film(seed(index), settings(width_, height_)).total_frames()};
  }
  std::string identity(int64_t index) const override {
    return fmt::format("toy film {} {}", seed(index), config_to_json(settings(0, 0)).dump());
  }
  TrainingFilm film(int64_t index, int64_t width, int64_t height) const override {
    const ToyFilmSettings sized = settings(width, height);
    const ToyFilm toy = make_toy_film(seed(index), sized);
    TrainingFilm film;
    film.name = fmt::format("toy film {}", toy.seed);
    std::vector<torch::Tensor> frames;
    for (int64_t i = 0; i < toy.total_frames(); ++i) {
      frames.push_back(image_to_tensor(draw_toy_frame(toy, i, sized)));
    }
    film.video_TCHW = torch::stack(frames);
    film.shot_starts = toy.script.shot_starts();
    for (const ToyShot& shot : toy.shots) {
      film.captions.push_back(shot.caption);
    }
    return film;
  }

 private:
  uint64_t seed(int64_t index) const { return config_.seed + static_cast<uint64_t>(index); }
  ToyFilmSettings settings(int64_t width, int64_t height) const {
    ToyFilmSettings sized = config_.toy;
    sized.width = width;
    sized.height = height;
    return sized;
  }

  DataConfig config_;
};

// Frames of a film that are used, of those that there are.
int64_t whole_latents(int64_t frames) {
  return (frames - 1) / 4 * 4 + 1;
}

class FolderSource : public FilmSource {
 public:
  FolderSource(const DataConfig& config, int64_t width, int64_t height)
      : FilmSource(width, height), config_(config) {
    const fs::path folder = config.folder;
    MOGA_CHECK(fs::is_directory(folder), "no such folder of clips: '{}'", config.folder);
    for (const auto& entry : fs::directory_iterator(folder)) {
      const std::string extension = entry.path().extension().string();
      if (extension == ".mp4" || extension == ".mkv" || extension == ".webm" || extension == ".mov") {
        clips_.push_back(entry.path());
      }
    }
    std::sort(clips_.begin(), clips_.end());
    MOGA_CHECK(!clips_.empty(), "no clips (.mp4, .mkv, .webm, .mov) in {}", config.folder);
  }
  using FilmSource::film;
  int64_t size() const override { return static_cast<int64_t>(clips_.size()); }
  FilmShape shape(int64_t index) const override {
    const VideoInfo info = probe_video(clips_[static_cast<size_t>(index)]);
    const bool lies = info.rotation == 90 || info.rotation == 270;
    const int64_t frames = info.frames > 0 ? std::min(info.frames, config_.max_frames) : config_.max_frames;
    return {lies ? info.height : info.width, lies ? info.width : info.height, whole_latents(frames)};
  }
  std::string identity(int64_t index) const override {
    const fs::path& clip = clips_[static_cast<size_t>(index)];
    std::string text = fmt::format("clip {} {}", file_fingerprint(clip), config_.max_frames);
    for (const char* ending : {".yaml", ".txt"}) {
      if (const fs::path captions = fs::path(clip).replace_extension(ending); fs::exists(captions)) {
        return text + " " + file_fingerprint(captions);
      }
    }
    return text;
  }

  TrainingFilm film(int64_t index, int64_t width, int64_t height) const override {
    const fs::path& clip = clips_[static_cast<size_t>(index)];
    std::vector<cv::Mat> frames = read_frames(clip, width, height);
    frames.resize(static_cast<size_t>(whole_latents(static_cast<int64_t>(frames.size()))));
    const auto count = static_cast<int64_t>(frames.size());
    TrainingFilm film;
    film.name = clip.filename().string();
    if (const fs::path script_file = fs::path(clip).replace_extension(".yaml"); fs::exists(script_file)) {
      const FilmScript script = load_script(script_file);
      for (const int64_t start : script.shot_starts()) {
        if (start < (count - 1) / 4 + 1) {
          film.captions.push_back(script.shots[film.shot_starts.size()].text);
          film.shot_starts.push_back(start);
        }
      }
    } else {
      read_caption_lines(clip, frames, film);
    }
    std::vector<torch::Tensor> tensors;
    tensors.reserve(frames.size());
    for (const cv::Mat& frame : frames) {
      tensors.push_back(image_to_tensor(frame));
    }
    film.video_TCHW = torch::stack(tensors);
    return film;
  }

 private:
  std::vector<cv::Mat> read_frames(const fs::path& clip, int64_t width, int64_t height) const {
    VideoReader reader(clip);
    std::vector<cv::Mat> frames;
    while (static_cast<int64_t>(frames.size()) < config_.max_frames) {
      auto frame = reader.next();
      if (!frame) {
        break;
      }
      frames.push_back(fill_size(*frame, width, height));
    }
    MOGA_CHECK(!frames.empty(), "{}: no frames could be decoded", clip.string());
    return frames;
  }

  // NAME.txt: one line for the whole clip, or one a shot as the cut detector sees them.
  static void read_caption_lines(const fs::path& clip, const std::vector<cv::Mat>& frames,
                                 TrainingFilm& film) {
    const fs::path text_file = fs::path(clip).replace_extension(".txt");
    MOGA_CHECK(fs::exists(text_file), "{}: no captions; expected {} or {} beside it", clip.string(),
               text_file.filename().string(), fs::path(clip).replace_extension(".yaml").filename().string());
    std::vector<std::string> lines;
    for (const std::string& line : split(read_file(text_file), '\n')) {
      if (const std::string text = trim(line); !text.empty()) {
        lines.push_back(text);
      }
    }
    MOGA_CHECK(!lines.empty(), "{}: empty caption file", text_file.string());
    film.shot_starts = cuts_to_shot_starts(detect_cuts(frames), static_cast<int64_t>(frames.size()));
    MOGA_CHECK(lines.size() == 1 || lines.size() == film.shot_starts.size(),
               "{}: {} captions for {} shots; give one caption, one a shot, or a film script",
               text_file.string(), lines.size(), film.shot_starts.size());
    film.captions = lines;
    film.captions.resize(film.shot_starts.size(), lines.front());
  }

  DataConfig config_;
  std::vector<fs::path> clips_;
};

}  // namespace

std::unique_ptr<FilmSource> open_films(const DataConfig& config, int64_t width, int64_t height) {
  if (config.kind == DataKind::kToy) {
    return std::make_unique<ToySource>(config, width, height);
  }
  MOGA_CHECK(config.kind == DataKind::kFolder,
             "data.kind latents: only the diffusion transformer trains on latents; give films as a folder");
  return std::make_unique<FolderSource>(config, width, height);
}

}  // namespace moga
