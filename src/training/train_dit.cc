#include <set>

#include "base/error.h"
#include "base/log.h"
#include "base/text_util.h"
#include "data/toy_world.h"
#include "model/model_folder.h"
#include "training/adapters.h"
#include "training/dit_loss.h"
#include "training/train.h"

namespace moga {

namespace fs = std::filesystem;

namespace {

// As the reference initialises: Xavier for linear layers, and a prediction of zero.
WanDit fresh_dit(const DitConfig& config) {
  WanDit dit(config);
  const torch::NoGradGuard guard;
  for (const auto& item : dit->named_parameters()) {
    if (item.key() == "head.head.weight" || item.key() == "head.head.bias") {
      item.value().zero_();
    } else if (item.value().dim() == 2 && item.key().find("embedding") == std::string::npos) {
      torch::nn::init::xavier_uniform_(item.value());
    }
  }
  return dit;
}

WanDit starting_dit(const TrainConfig& config, const ModelConfig& sizes, torch::Device device) {
  if (config.start_from.empty()) {
    return fresh_dit(sizes.dit);
  }
  ModelSource start(config.start_from);
  if (config.trained == TrainedPart::kFull) {
    start.precision = Precision::kF32;  // masters; a step would be lost in a bfloat16 weight's rounding
  }
  return ModelFolder(start).load_dit(device, &sizes.dit.attention);
}

std::vector<BucketConfig> buckets_of(const StageConfig& stage, const ModelConfig& sizes) {
  std::vector<BucketConfig> buckets = stage.buckets;
  if (buckets.empty()) {
    buckets = {{0, 0, stage.latent_frames}};
  }
  for (BucketConfig& bucket : buckets) {
    bucket.width = bucket.width == 0 ? sizes.width : bucket.width;
    bucket.height = bucket.height == 0 ? sizes.height : bucket.height;
  }
  return buckets;
}

// The films of all stages, and those that are measured.
class Films {
 public:
  // `sequence`: processes that share each film's tokens, or null.
  Films(const TrainConfig& config, const ModelFolder& folder, CaptionSource& captions, torch::Device device,
        const std::shared_ptr<Communicator>& sequence)
      : config_(config), folder_(folder), captions_(captions), device_(device) {
    source_.vae_hash = folder.vae_fingerprint();
    source_.cache = cache_folder(config) / "latents";
    source_.vae = [this] {
      if (!vae_) {
        vae_ = folder_.load_vae(device_);
      }
      return vae_;
    };
    for (const StageConfig& stage : config.stages) {
      stages_.push_back(open(stage.data.value_or(config.data), buckets_of(stage, folder.config()), sequence));
    }
    if (config.validation.every > 0) {
      DataConfig data = *config.validation.data;
      if (data.kind == DataKind::kToy) {
        data.films = config.validation.films;
      }
      const ModelConfig& sizes = folder.config();
      validation_ = open(data, {{sizes.width, sizes.height, config.validation.latent_frames}}, nullptr);
    }
    vae_ = nullptr;  // frees its memory
  }

  static fs::path cache_folder(const TrainConfig& config) {
    return config.cache.empty() ? fs::path(config.work) / "cache" : fs::path(config.cache);
  }

  DitData& stage(int64_t index) { return *stages_[static_cast<size_t>(index)]; }
  DitData& validation() { return *validation_; }

  // What could not be used, once more at the end of a run, where it is read.
  void list_skipped() const {
    std::set<std::string> reasons;
    for (const auto& stage : stages_) {
      reasons.insert(stage->skipped().begin(), stage->skipped().end());
    }
    if (!reasons.empty()) {
      spdlog::warn("{} films were skipped: {}", reasons.size(), fmt::join(reasons, "; "));
    }
  }

 private:
  std::unique_ptr<DitData> open(const DataConfig& data, const std::vector<BucketConfig>& buckets,
                                const std::shared_ptr<Communicator>& sequence) {
    return std::make_unique<DitData>(
        encode_films(data, buckets, source_), buckets, folder_.config().dit, captions_,
        config_.memory_gib / static_cast<double>(config_.stages.size() + 1), device_, sequence);
  }

  const TrainConfig& config_;
  const ModelFolder& folder_;
  CaptionSource& captions_;
  torch::Device device_;
  LatentSource source_;
  WanVae vae_{nullptr};
  std::vector<std::unique_ptr<DitData>> stages_;
  std::unique_ptr<DitData> validation_;
};

// The weights as they are now as something that `moga generate` takes: for a whole transformer a folder with
// links to the other parts, for adapters a file beside the base.
ModelSource save_snapshot(const TrainConfig& config, const ModelFolder& folder, const WanDit& dit,
                          const std::optional<UmT5>& text, const TrainedWeights& weights) {
  const fs::path place = fs::path(config.work) / "snapshot";
  if (!weights.whole()) {
    weights.save_adapter(place / "lora.safetensors");
    ModelSource source(config.start_from);
    source.loras = {{place / "lora.safetensors", 1}};
    return source;
  }
  ModelFolder snapshot = ModelFolder::open_or_create(place, (folder.path() / "moga.json").string());
  snapshot.save_dit(dit);
  for (const char* part : {"vae.safetensors", "text.safetensors", "tokenizer.model"}) {
    if (!fs::exists(fs::symlink_status(place / part))) {
      fs::create_symlink(fs::absolute(folder.part(part)), place / part);
    }
  }
  if (text) {
    fs::remove(place / "text.safetensors");  // the link, not what it points to
    snapshot.save_text(*text);
  }
  return place;
}

}  // namespace

TrainEnd train_dit(const TrainConfig& config, torch::Device device, const TrainOptions& options) {
  ModelFolder folder(config.model);
  MOGA_CHECK(
      config.trained == TrainedPart::kLora || folder.layout() == ModelLayout::kMoga,
      "model: {} is a {}, which does not take a trained transformer; `moga convert` makes a folder that does",
      config.model, enum_name(folder.layout()));
  torch::manual_seed(static_cast<int64_t>(config.seed));
  WanDit dit = starting_dit(config, folder.config(), device);
  dit->train();
  dit->recompute_blocks(config.recompute);
  const TrainedWeights weights(dit, config);
  FlatParameters::Named trained = {{"", dit.get()}};
  std::optional<UmT5> text;  // if it is trained
  std::optional<CaptionSource> captions;
  if (config.train_text) {
    text = config.start_from.empty() ? UmT5(folder.config().text)
                                     : ModelFolder(config.start_from).load_text(device);
    trained.emplace_back("text", text->get());
    captions.emplace(folder, *text, device);
  } else {
    captions.emplace(folder, Films::cache_folder(config) / "captions", config.memory_gib, device);
  }
  Communicator* world = options.mesh ? options.mesh->world.get() : nullptr;
  std::optional<Films> films;
  const auto open_films = [&] {
    films.emplace(config, folder, *captions, device, options.mesh ? options.mesh->sequence : nullptr);
  };
  if (world != nullptr) {  // the first fills the cache, the others find it filled
    world->first_alone(open_films, "films");
  }
  if (!films) {
    open_films();
  }
  captions->forget_encoder();
  FlatParameters flat(trained, device);
  spdlog::info("training {} of {} parameters on {}", human_count(static_cast<double>(flat.values().numel())),
               human_count(static_cast<double>(parameter_count(*dit) + (text ? parameter_count(**text) : 0))),
               device.str());

  TrainingStep step;
  step.inputs = [&](const StepContext& context) {
    return films->stage(context.stage_index).draw(config, context);
  };
  step.loss = [&](const StepContext& context, const StepInputs& inputs) {
    const DitBatch batch = films->stage(context.stage_index).unpack(inputs);
    return dit_loss(config, dit, caption_rows(*captions, batch), batch, world);
  };
  RunOptions run;
  run.accept_changes = options.accept_changes;
  run.mesh = options.mesh;
  if (config.validation.every > 0) {
    run.tasks.push_back(
        {config.validation.every, [&](int64_t) -> nlohmann::ordered_json {
           return {{"validation", measure_flow(dit, *captions, films->validation(), config.validation)}};
         }});
  }
  if (config.samples.every > 0 && options.make_sample) {
    run.tasks.push_back({config.samples.every, [&](int64_t done) -> nlohmann::ordered_json {
                           const ModelSource source = save_snapshot(config, folder, dit, text, weights);
                           const fs::path place =
                               fs::path(config.work) / "samples" / fmt::format("step-{:08}", done);
                           std::vector<std::string> made;
                           for (const std::string& script : config.samples.scripts) {
                             const fs::path film = place / fs::path(script).stem().concat(".mp4");
                             options.make_sample(source, script, film);
                             made.push_back(film.string());
                           }
                           return {{"samples", made}};
                         }});
  }
  const TrainEnd end = run_training(config, flat, step, run);
  films->list_skipped();
  if (end == TrainEnd::kFinished && (world == nullptr || world->rank() == 0)) {
    if (!weights.whole()) {
      const fs::path file =
          config.lora.file.empty() ? fs::path(config.work) / "lora.safetensors" : fs::path(config.lora.file);
      weights.save_adapter(file);
      spdlog::info("the adapter is {}", file.string());
      return end;
    }
    folder.save_dit(dit);
    if (text) {
      folder.save_text(*text);
    }
  }
  return end;
}

TrainEnd train_toy_tokenizer(const TrainConfig& config) {
  const ModelFolder folder = ModelFolder::open_or_create(config.model, config.base);
  train_tokenizer(toy_caption_corpus(config.seed, config.corpus),
                  std::min(config.vocab_size, folder.config().text.vocab_size),
                  folder.part("tokenizer.model"));
  return TrainEnd::kFinished;
}

}  // namespace moga
