#include "data/film_source.h"

#include <opencv2/imgproc.hpp>

#include "base/atomic_file.h"
#include "base/error.h"
#include "data/cuts.h"
#include "media/frame_tensor.h"
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
  ToySource(const DataConfig& config, int64_t width, int64_t height) : config_(config) {
    MOGA_CHECK(config.films >= 1, "expected at least one film, found {}", config.films);
    config_.toy.width = width;
    config_.toy.height = height;
  }
  int64_t size() const override { return config_.films; }
  TrainingFilm film(int64_t index) const override {
    const ToyFilm toy = make_toy_film(config_.seed + static_cast<uint64_t>(index), config_.toy);
    TrainingFilm film;
    film.name = fmt::format("toy film {}", toy.seed);
    std::vector<torch::Tensor> frames;
    for (int64_t i = 0; i < toy.total_frames(); ++i) {
      frames.push_back(image_to_tensor(draw_toy_frame(toy, i, config_.toy)));
    }
    film.video_TCHW = torch::stack(frames);
    film.shot_starts = toy.script.shot_starts();
    for (const ToyShot& shot : toy.shots) {
      film.captions.push_back(shot.caption);
    }
    return film;
  }

 private:
  DataConfig config_;
};

class FolderSource : public FilmSource {
 public:
  FolderSource(const DataConfig& config, int64_t width, int64_t height)
      : config_(config), width_(width), height_(height) {
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
  int64_t size() const override { return static_cast<int64_t>(clips_.size()); }

  TrainingFilm film(int64_t index) const override {
    const fs::path& clip = clips_[static_cast<size_t>(index)];
    std::vector<cv::Mat> frames = read_frames(clip);
    frames.resize((frames.size() - 1) / 4 * 4 + 1);
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
  std::vector<cv::Mat> read_frames(const fs::path& clip) const {
    VideoReader reader(clip);
    std::vector<cv::Mat> frames;
    while (static_cast<int64_t>(frames.size()) < config_.max_frames) {
      auto frame = reader.next();
      if (!frame) {
        break;
      }
      cv::Mat scaled;
      cv::resize(*frame, scaled, cv::Size(static_cast<int>(width_), static_cast<int>(height_)), 0, 0,
                 cv::INTER_AREA);
      frames.push_back(scaled);
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
  int64_t width_;
  int64_t height_;
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
