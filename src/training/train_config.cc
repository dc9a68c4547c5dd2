#include "training/train_config.h"

#include <filesystem>

#include "base/error.h"

namespace moga {

namespace {

// Checks of one kind of number, each naming the key.
struct KeyCheck {
  std::string file;
  void at_least(int64_t value, int64_t least, const std::string& key) const {
    MOGA_CHECK(value >= least, "{}: {} must be at least {}, found {}", file, key, least, value);
  }
  void between(double value, double least, double most, const std::string& key) const {
    MOGA_CHECK(value >= least && value <= most, "{}: {} must lie between {} and {}, found {}", file, key,
               least, most, value);
  }
  void positive(double value, const std::string& key) const {
    MOGA_CHECK(value > 0, "{}: {} must be above zero, found {}", file, key, value);
  }
};

void check_data(const KeyCheck& check, const DataConfig& data, const std::string& key) {
  check.at_least(data.films, 1, key + ".films");
  check.at_least(data.max_frames, 1, key + ".max_frames");
  MOGA_CHECK(data.kind == DataKind::kToy || !data.folder.empty(),
             "{}: {}.folder is missing: where the films are", check.file, key);
}

void check_stage(const KeyCheck& check, const StageConfig& stage, const std::string& key) {
  check.at_least(stage.steps, 0, key + ".steps");
  check.at_least(stage.batch, 1, key + ".batch");
  check.at_least(stage.warmup, 0, key + ".warmup");
  check.positive(stage.learning_rate, key + ".learning_rate");
  check.between(stage.final_rate, 0, 1, key + ".final_rate");
  check.at_least(stage.latent_frames, 1, key + ".latent_frames");
  check.at_least(stage.accumulate, 1, key + ".accumulate");
  MOGA_CHECK(stage.batch % stage.accumulate == 0,
             "{}: {}.batch must be a multiple of accumulate, found {} films in {} parts", check.file, key,
             stage.batch, stage.accumulate);
  for (size_t i = 0; i < stage.buckets.size(); ++i) {
    const BucketConfig& bucket = stage.buckets[i];
    const std::string place = fmt::format("{}.buckets[{}]", key, i);
    check.at_least(bucket.latent_frames, 1, place + ".latent_frames");
    check.at_least(std::min(bucket.width, bucket.height), 0, place + ".width and .height");
    MOGA_CHECK(bucket.width % 16 == 0 && bucket.height % 16 == 0,
               "{}: {}: expected multiples of 16, found {}x{}", check.file, place, bucket.width,
               bucket.height);
  }
}

}  // namespace

int64_t total_steps(const TrainConfig& config) {
  int64_t total = 0;
  for (const StageConfig& stage : config.stages) {
    total += stage.steps;
  }
  return total;
}

void check_config(const TrainConfig& config, const std::string& file) {
  const KeyCheck check{file};
  MOGA_CHECK(!config.stages.empty(), "{}: stages: expected at least one", file);
  for (size_t i = 0; i < config.stages.size(); ++i) {
    const std::string key = fmt::format("stages[{}]", i);
    check_stage(check, config.stages[i], key);
    if (config.stages[i].data) {
      check_data(check, *config.stages[i].data, key + ".data");
    }
  }
  const bool reads_films = config.kind == TrainKind::kVae || config.kind == TrainKind::kDit;
  const bool run_data = std::any_of(config.stages.begin(), config.stages.end(),
                                    [](const StageConfig& stage) { return !stage.data.has_value(); });
  if (reads_films && run_data) {
    check_data(check, config.data, "data");
  }
  check.between(config.weight_decay, 0, 1, "weight_decay");
  check.between(config.beta2, 0, 1, "beta2");
  check.between(config.ema, 0, 1, "ema");
  check.positive(config.clip_norm, "clip_norm");
  check.at_least(config.checkpoint_every, 1, "checkpoint_every");
  check.at_least(config.keep_checkpoints, 1, "keep_checkpoints");
  check.at_least(config.log_every, 1, "log_every");
  check.at_least(config.max_skipped, 1, "max_skipped");
  check.positive(config.noise_shift, "noise_shift");
  check.between(config.caption_dropout, 0, 1, "caption_dropout");
  check.at_least(config.crop, 0, "crop");
  MOGA_CHECK(config.crop % 16 == 0, "{}: crop must be a multiple of 16, found {}", file, config.crop);
  if (config.trained != TrainedPart::kFull) {
    const std::string part = enum_name(config.trained);
    MOGA_CHECK(config.kind == TrainKind::kDit, "{}: trained: {} is for kind: dit alone", file, part);
    MOGA_CHECK(!config.start_from.empty(), "{}: trained: {} needs the model to start from (start_from)", file,
               part);
    MOGA_CHECK(!config.train_text, "{}: trained: {} leaves the text encoder frozen, but train_text is set",
               file, part);
    check.at_least(config.lora.rank, 1, "lora.rank");
    check.positive(config.lora.alpha, "lora.alpha");
    MOGA_CHECK(config.trained != TrainedPart::kLora || !config.lora.targets.empty(),
               "{}: lora.targets: expected at least one layer", file);
  }
  if (config.validation.every > 0) {
    MOGA_CHECK(config.validation.data, "{}: validation.data is missing: films that training does not see",
               file);
    check_data(check, *config.validation.data, "validation.data");
    check.at_least(config.validation.films, 1, "validation.films");
    check.at_least(config.validation.latent_frames, 1, "validation.latent_frames");
    for (const double level : config.validation.levels) {
      check.between(level, 0, 1, "validation.levels");
    }
  }
  MOGA_CHECK(config.samples.every == 0 || !config.samples.scripts.empty(),
             "{}: samples.scripts: expected at least one film script", file);
}

void check_paths(const TrainConfig& config, const std::string& file) {
  const auto check_folder = [&](const DataConfig& data, const std::string& key) {
    MOGA_CHECK(data.kind == DataKind::kToy || std::filesystem::is_directory(data.folder),
               "{}: {}.folder: no such folder: '{}'", file, key, data.folder);
  };
  if (config.kind != TrainKind::kVae && config.kind != TrainKind::kDit) {
    return;
  }
  for (size_t i = 0; i < config.stages.size(); ++i) {
    const auto& own = config.stages[i].data;
    check_folder(own.value_or(config.data), own ? fmt::format("stages[{}].data", i) : "data");
  }
  if (config.validation.every > 0) {
    check_folder(*config.validation.data, "validation.data");
  }
  for (const std::string& script : config.samples.scripts) {
    MOGA_CHECK(config.samples.every == 0 || std::filesystem::exists(script),
               "{}: samples.scripts: no such file: '{}'", file, script);
  }
}

}  // namespace moga
