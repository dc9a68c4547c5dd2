#include "prepare/stages.h"

#include <algorithm>
#include <mutex>

#include "base/error.h"
#include "base/text_util.h"
#include "training/latent_writer.h"

namespace moga {

namespace fs = std::filesystem;

struct StageServices::Impl {
  const PrepareConfig& config;
  fs::path out;
  std::mutex mutex;
  std::unique_ptr<LearnedScorers> learned;
  std::unique_ptr<ChatClient> chat;
  std::unique_ptr<LatentWriter> latents;
  std::optional<std::vector<SidecarCaption>> table;
};

StageServices::StageServices(const PrepareConfig& config, fs::path out)
    : impl_(new Impl{config, std::move(out), {}, {}, {}, {}, {}}) {}
StageServices::~StageServices() = default;

// What cannot be made for one video cannot be made for any: errors stop the run.
template <typename T, typename Make>
static T& made_once(std::mutex& mutex, std::unique_ptr<T>& place, Make make) {
  const std::lock_guard lock(mutex);
  if (!place) {
    try {
      place = make();
    } catch (const Error& error) {
      throw StopRun(error.what());
    }
  }
  return *place;
}

LearnedScorers& StageServices::learned() {
  return made_once(impl_->mutex, impl_->learned,
                   [&] { return std::make_unique<LearnedScorers>(impl_->config.score.learned); });
}

ChatClient& StageServices::chat() {
  return made_once(impl_->mutex, impl_->chat, [&] {
    return std::make_unique<ChatClient>(impl_->config.caption, impl_->out / "work" / "captions");
  });
}

LatentWriter& StageServices::latents() {
  return made_once(impl_->mutex, impl_->latents,
                   [&] { return std::make_unique<LatentWriter>(impl_->config.write.model); });
}

const std::vector<SidecarCaption>& StageServices::caption_table() {
  const std::lock_guard lock(impl_->mutex);
  if (!impl_->table) {
    try {
      const std::string& file = impl_->config.caption.table;
      impl_->table = file.empty() ? std::vector<SidecarCaption>() : read_captions(file);
    } catch (const Error& error) {
      throw StopRun(error.what());
    }
  }
  return *impl_->table;
}

namespace {

using Json = nlohmann::ordered_json;

template <typename... Parts>
Json settings_of(const Parts&... parts) {
  return Json::array({config_to_json(parts)...});
}

// A file that a config names, as it is now: another size or date makes another setting.
Json file_state(const fs::path& file) {
  std::error_code error;
  const auto size = fs::file_size(file, error);
  if (error) {
    return nullptr;
  }
  return Json::array({size, fs::last_write_time(file, error).time_since_epoch().count()});
}

std::vector<std::string> no_files(const VideoRecord&) {
  return {};
}

std::vector<std::string> shot_pictures(const VideoRecord& video) {
  std::vector<std::string> files;
  for (const ShotRecord& shot : video.shots) {
    if (!shot.thumbnails.empty()) {
      files.push_back(shot.thumbnails);
    }
  }
  return files;
}

std::vector<std::string> film_files(const VideoRecord& video) {
  std::vector<std::string> files;
  for (const FilmRecord& film : video.films) {
    files.insert(files.end(), film.files.begin(), film.files.end());
  }
  return files;
}

Json score_settings(const PrepareConfig& c) {
  Json settings = settings_of(c.score);
  for (const LearnedScoreConfig& learned : c.score.learned) {
    settings.push_back(file_state(learned.file));
  }
  return settings;
}

Json caption_settings(const PrepareConfig& c) {
  Json settings = settings_of(c.caption, c.film);
  // How often and how fast to ask does not change the answers.
  for (const char* key : {"concurrency", "timeout_seconds", "retries", "backoff_seconds", "give_up_after"}) {
    settings[0].erase(key);
  }
  settings.push_back(file_state(c.caption.table));
  return settings;
}

Json write_settings(const PrepareConfig& c) {
  Json settings = settings_of(c.write);
  if (c.write.form != WriteForm::kVideo) {
    settings.push_back(file_state(fs::path(c.write.model) / "vae.safetensors"));
  }
  return settings;
}

}  // namespace

const std::vector<Stage>& stages() {
  static const std::vector<Stage> list = {
      {"probe", "what the container says", 1, [](const PrepareConfig&) { return Json(); }, run_probe,
       no_files},
      {"score", "decode once: scores, black borders, damage", 1, score_settings, run_score,
       [](const VideoRecord& video) { return std::vector<std::string>{video.thumbnails}; }},
      {"filter", "drop videos that break a limit", 1,
       [](const PrepareConfig& c) { return settings_of(c.filter); }, run_filter, no_files},
      {"split", "find shot boundaries", 1,
       [](const PrepareConfig& c) {
         Json settings = settings_of(c.split);
         settings.push_back(c.film.min_shot_seconds);
         settings.push_back(file_state(c.split.detector.network));
         return settings;
       },
       run_split, no_files},
      {"shot-score", "score shots, drop those that break a limit", 1,
       [](const PrepareConfig& c) {
         Json settings = score_settings(c);
         settings.push_back(config_to_json(c.filter));
         return settings;
       },
       run_shot_score, shot_pictures},
      {"text", "find subtitles and watermarks", 1, [](const PrepareConfig& c) { return settings_of(c.text); },
       run_text, no_files},
      {"crop", "crop off borders, subtitles and watermarks", 1,
       [](const PrepareConfig& c) {
         return Json::array({c.film.sizes, c.text.min_share});
       },
       run_crop, no_files},
      {"caption", "take captions from files or from a model", 1, caption_settings, run_caption, no_files},
      {"merge", "join neighbouring shots into films", 1,
       [](const PrepareConfig& c) { return settings_of(c.film); }, run_merge, no_files},
      {"write", "write films and their scripts", 1, write_settings, run_write, film_files},
  };
  return list;
}

size_t stage_index(const std::string& name) {
  std::vector<std::string> names;
  for (const Stage& stage : stages()) {
    if (name == stage.name) {
      return names.size();
    }
    names.emplace_back(stage.name);
  }
  const auto near = nearest_word(name, names);
  fail("unknown stage '{}'{}; the stages are {}", name, near ? ", did you mean '" + *near + "'?" : "",
       fmt::join(names, ", "));
}

}  // namespace moga
