#include "prepare/prepare_config.h"

#include <cmath>
#include <cstdio>
#include <filesystem>

#include "base/error.h"
#include "prepare/limits.h"

namespace moga {

namespace fs = std::filesystem;

Size parse_size(const std::string& text, const std::string& key) {
  Size size;
  char rest = 0;
  constexpr int64_t kMost = 8192;
  const bool good = std::sscanf(text.c_str(), "%ldx%ld%c", &size.width, &size.height, &rest) == 2 &&
                    size.width >= 16 && size.height >= 16 && size.width <= kMost && size.height <= kMost &&
                    size.width % 16 == 0 && size.height % 16 == 0;
  MOGA_CHECK(good, "{}: expected WIDTHxHEIGHT in multiples of 16 up to {}, found '{}'", key, kMost, text);
  return size;
}

namespace {

void check_range(double value, double low, double high, const char* key) {
  MOGA_CHECK(std::isfinite(value) && value >= low && value <= high, "{}: expected {} to {}, found {}", key,
             low, high, value);
}

void check_limits(const std::vector<Limit>& limits, const std::vector<std::string>& names,
                  const std::string& key) {
  for (const Limit& limit : limits) {
    if (std::find(names.begin(), names.end(), limit.score) == names.end()) {
      const auto near = nearest_word(limit.score, names);
      fail("{}: unknown score '{}'{}; there are {}", key, limit.score,
           near ? ", did you mean '" + *near + "'?" : "", fmt::join(names, ", "));
    }
  }
}

void check_file(const std::string& file, const std::string& key) {
  MOGA_CHECK(fs::is_regular_file(file), "{}: no such file: '{}'", key, file);
}

void check_caption(const CaptionConfig& caption) {
  check_range(static_cast<double>(caption.frames), 1, 64, "caption.frames");
  check_range(static_cast<double>(caption.width), 16, 4096, "caption.width");
  check_range(caption.temperature, 0, 10, "caption.temperature");
  check_range(static_cast<double>(caption.max_tokens), 1, 100000, "caption.max_tokens");
  check_range(static_cast<double>(caption.concurrency), 1, 256, "caption.concurrency");
  check_range(caption.timeout_seconds, 0.01, 86400, "caption.timeout_seconds");
  check_range(static_cast<double>(caption.retries), 0, 100, "caption.retries");
  check_range(caption.backoff_seconds, 0, 3600, "caption.backoff_seconds");
  check_range(static_cast<double>(caption.give_up_after), 1, 1e9, "caption.give_up_after");
  check_range(caption.price_in, 0, 1e9, "caption.price_in");
  check_range(caption.price_out, 0, 1e9, "caption.price_out");
  if (!caption.endpoint.empty()) {
    MOGA_CHECK(caption.endpoint.starts_with("http://") || caption.endpoint.starts_with("https://"),
               "caption.endpoint: expected http://... or https://..., found '{}'", caption.endpoint);
    MOGA_CHECK(!caption.prompt.empty(), "caption.prompt: expected what to ask the model");
  }
  if (!caption.table.empty()) {
    check_file(caption.table, "caption.table");
  }
}

}  // namespace

void check_config(const PrepareConfig& config) {
  check_range(static_cast<double>(config.jobs), 0, 1024, "jobs");
  check_range(config.score.samples_a_second, 0.01, 1000, "score.samples_a_second");
  std::vector<std::string> names = limit_names();
  for (const LearnedScoreConfig& learned : config.score.learned) {
    MOGA_CHECK(!learned.name.empty(), "score.learned: expected a name for each network");
    MOGA_CHECK(std::find(names.begin(), names.end(), learned.name) == names.end(),
               "score.learned: the name '{}' is taken", learned.name);
    names.push_back(learned.name);
    check_file(learned.file, "score.learned[" + learned.name + "].file");
    check_range(static_cast<double>(learned.width), 1, 8192, "score.learned.width");
    check_range(static_cast<double>(learned.height), 1, 8192, "score.learned.height");
    MOGA_CHECK(learned.mean.size() == 3 && learned.std.size() == 3,
               "score.learned[{}]: expected three numbers in mean and in std", learned.name);
  }
  check_limits(config.filter.video, names, "filter.video");
  check_limits(config.filter.shot, names, "filter.shot");
  for (const SourceLimits& source : config.filter.sources) {
    check_limits(source.video, names, "filter.sources[" + source.match + "].video");
    check_limits(source.shot, names, "filter.sources[" + source.match + "].shot");
  }
  if (!config.split.detector.network.empty()) {
    check_file(config.split.detector.network, "split.detector.network");
  }
  check_range(static_cast<double>(config.split.trim_frames), 0, 1000, "split.trim_frames");
  check_range(static_cast<double>(config.text.frames), 1, 100, "text.frames");
  check_range(static_cast<double>(config.text.video_frames), 2, 1000, "text.video_frames");
  check_range(config.text.min_share, 0, 1, "text.min_share");
  check_caption(config.caption);
  check_range(config.film.fps, 1, 240, "film.fps");
  MOGA_CHECK(!config.film.sizes.empty(), "film.sizes: expected at least one size, such as 832x480");
  for (const std::string& size : config.film.sizes) {
    parse_size(size, "film.sizes");
  }
  check_range(config.film.max_seconds, 1, 3600, "film.max_seconds");
  check_range(static_cast<double>(config.film.min_shots), 1, 1000, "film.min_shots");
  check_range(config.film.min_shot_seconds, 0, 3600, "film.min_shot_seconds");
  check_range(config.film.scene_similarity, 0, 1, "film.scene_similarity");
  check_range(static_cast<double>(config.write.crf), 0, 51, "write.crf");
  MOGA_CHECK(config.write.form == WriteForm::kVideo || fs::is_directory(config.write.model),
             "write.model: latents need a model folder with a VAE, found '{}'", config.write.model);
}

}  // namespace moga
