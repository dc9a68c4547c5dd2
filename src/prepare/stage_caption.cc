// The stage caption: captions that came with the video first, a model's for the rest.
#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <opencv2/imgproc.hpp>
#include <thread>

#include "base/error.h"
#include "media/video.h"
#include "prepare/stages.h"

namespace moga {

namespace {

std::string filled(std::string text, const std::vector<std::pair<std::string, std::string>>& values) {
  for (const auto& [name, value] : values) {
    const std::string key = "{" + name + "}";
    for (size_t at = text.find(key); at != std::string::npos; at = text.find(key, at + value.size())) {
      text.replace(at, key.size(), value);
    }
  }
  return text;
}

// Gives shots the captions that came with the video. Captions with times belong to the shots of which they
// cover at least half; captions without times or numbers are the video's.
void take_sidecars(VideoRecord& video, const std::vector<SidecarCaption>& captions) {
  const auto shots = static_cast<int64_t>(video.shots.size());
  std::vector<double> covered(video.shots.size(), 0);
  for (const SidecarCaption& caption : captions) {
    if (caption.shot) {
      MOGA_CHECK(*caption.shot < shots, "caption for shot {} of {}: {} shots were found", *caption.shot + 1,
                 video.path, shots);
      ShotRecord& shot = video.shots[static_cast<size_t>(*caption.shot)];
      shot.caption = caption.text;
      shot.caption_from = "sidecar";
    } else if (!caption.begin) {
      video.captions.push_back({0, shots, caption.text});
    } else {
      for (size_t i = 0; i < video.shots.size(); ++i) {
        ShotRecord& shot = video.shots[i];
        const double common = std::min(shot.end, *caption.end) - std::max(shot.begin, *caption.begin);
        if (common >= 0.5 * (shot.end - shot.begin) && common > covered[i]) {
          covered[i] = common;
          shot.caption = caption.text;
          shot.caption_from = "sidecar";
        }
      }
    }
  }
}

// Pictures of a shot as the model sees them: cropped, scaled, JPEG.
std::vector<std::string> shot_pictures(const VideoRecord& video, const ShotRecord& shot,
                                       const StageContext& context) {
  const CaptionConfig& config = context.config.caption;
  VideoReader reader(video.path, {0, 0, 1});
  std::vector<std::string> pictures;
  for (int64_t i = 0; i < config.frames; ++i) {
    reader.seek(shot.begin + (shot.end - shot.begin) * (static_cast<double>(i) + 0.5) /
                                 static_cast<double>(config.frames));
    if (!reader.advance()) {
      continue;
    }
    cv::Mat picture = reader.picture();
    if (shot.crop) {
      picture = picture(cv::Rect(static_cast<int>(shot.crop->x), static_cast<int>(shot.crop->y),
                                 static_cast<int>(shot.crop->width), static_cast<int>(shot.crop->height)));
    }
    cv::Mat small;
    const auto width = static_cast<int>(config.width);
    cv::resize(picture, small, {width, std::max(2, picture.rows * width / picture.cols)}, 0, 0,
               cv::INTER_AREA);
    pictures.push_back(jpeg_strip({small}));
  }
  MOGA_CHECK(!pictures.empty(), "no frame could be decoded");
  return pictures;
}

// Asks the model; counts what it cost. An answer that cannot be had is counted as a failure and leaves
// nothing.
class Asker {
 public:
  explicit Asker(StageContext& context) : context_(context), config_(context.config.caption) {}

  std::optional<std::string> ask(const std::string& prompt, const std::vector<std::string>& pictures) {
    try {
      const ChatAnswer answer = context_.services.chat().ask(prompt, pictures);
      const std::lock_guard lock(mutex_);
      ++costs_.requests;
      costs_.prompt_tokens += answer.prompt_tokens;
      costs_.answer_tokens += answer.answer_tokens;
      return clean_caption(answer.text);
    } catch (const StopRun&) {
      throw;
    } catch (const Error& error) {
      const std::lock_guard lock(mutex_);
      ++costs_.failures;
      problem_ = error.what();
      context_.again = true;
      return std::nullopt;
    }
  }
  CaptionCosts costs() const {
    CaptionCosts costs = costs_;
    costs.cost = (static_cast<double>(costs.prompt_tokens) * config_.price_in +
                  static_cast<double>(costs.answer_tokens) * config_.price_out) /
                 1e6;
    return costs;
  }
  const std::string& problem() const { return problem_; }

 private:
  StageContext& context_;
  const CaptionConfig& config_;
  std::mutex mutex_;
  CaptionCosts costs_;
  std::string problem_;
};

// Calls `work` for 0 .. count - 1 from several threads; the first exception is thrown again here.
void in_parallel(size_t count, size_t threads, const std::function<void(size_t)>& work) {
  std::atomic<size_t> next = 0;
  std::exception_ptr problem;
  std::mutex mutex;
  std::vector<std::thread> pool;
  for (size_t t = 0; t < std::min(count, threads); ++t) {
    pool.emplace_back([&] {
      for (size_t i = next++; i < count; i = next++) {
        try {
          work(i);
        } catch (...) {
          const std::lock_guard lock(mutex);
          problem = std::current_exception();
          next = count;
        }
      }
    });
  }
  for (std::thread& thread : pool) {
    thread.join();
  }
  if (problem) {
    std::rethrow_exception(problem);
  }
}

void ask_about_shots(VideoRecord& video, StageContext& context, Asker& asker) {
  const CaptionConfig& config = context.config.caption;
  std::vector<size_t> open;
  for (size_t i = 0; i < video.shots.size(); ++i) {
    if (!video.shots[i].dropped && video.shots[i].caption.empty()) {
      open.push_back(i);
    }
  }
  in_parallel(open.size(), static_cast<size_t>(config.concurrency), [&](size_t at) {
    ShotRecord& shot = video.shots[open[at]];
    const std::string prompt =
        filled(config.prompt, {{"frames", std::to_string(config.frames)},
                               {"seconds", fmt::format("{:.1f}", shot.end - shot.begin)},
                               {"shot", std::to_string(open[at] + 1)},
                               {"shots", std::to_string(video.shots.size())},
                               {"video", std::filesystem::path(video.path).stem().string()}});
    if (const auto text = asker.ask(prompt, shot_pictures(video, shot, context))) {
      shot.caption = *text;
      shot.caption_from = config.model.empty() ? "model" : config.model;
    } else {
      shot.dropped = Drop{"caption", "caption", asker.problem()};
    }
  });
}

// Of the films that the captioned shots would make now.
void ask_about_films(VideoRecord& video, StageContext& context, Asker& asker) {
  const CaptionConfig& config = context.config.caption;
  if (config.film_prompt.empty() || !video.captions.empty()) {
    return;
  }
  const std::vector<FilmRecord> films = plan_films(video, context.config.film);
  std::vector<std::optional<std::string>> texts(films.size());
  in_parallel(films.size(), static_cast<size_t>(config.concurrency), [&](size_t i) {
    std::string captions;
    for (size_t s = 0; s < films[i].shots.size(); ++s) {
      captions += fmt::format("Shot {}: {}\n", s + 1,
                              video.shots[static_cast<size_t>(films[i].shots[s].shot)].caption);
    }
    texts[i] =
        asker.ask(filled(config.film_prompt, {{"captions", captions},
                                              {"shots", std::to_string(films[i].shots.size())},
                                              {"video", std::filesystem::path(video.path).stem().string()}}),
                  {});
  });
  for (size_t i = 0; i < films.size(); ++i) {
    if (texts[i]) {
      video.captions.push_back({films[i].shots.front().shot, films[i].shots.back().shot + 1, *texts[i]});
    }
  }
}

}  // namespace

void run_caption(VideoRecord& video, StageContext& context) {
  const CaptionConfig& config = context.config.caption;
  take_sidecars(video, captions_of(video.path, context.services.caption_table(), config.sidecars));
  if (!config.endpoint.empty()) {
    Asker asker(context);
    ask_about_shots(video, context, asker);
    ask_about_films(video, context, asker);
    video.caption_costs = asker.costs();
    if (asker.costs().failures > 0) {
      video.notes.push_back(
          fmt::format("captions: {} could not be had: {}", asker.costs().failures, asker.problem()));
    }
    return;
  }
  for (ShotRecord& shot : video.shots) {
    if (!shot.dropped && shot.caption.empty()) {
      shot.caption = config.fallback;
      shot.caption_from = "none";
      if (config.fallback.empty()) {
        shot.dropped = Drop{"caption", "caption", "no caption came with it"};
      }
    }
  }
}

}  // namespace moga
