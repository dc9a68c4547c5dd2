#include "train_cost.h"

#include <fmt/format.h>

#include <filesystem>

#include "base/text_util.h"
#include "model/model_folder.h"
#include "pipeline/planner.h"

namespace moga {

namespace {

FilmPlan plan_of(const ModelConfig& model, const BucketConfig& bucket) {
  PlanRequest request;
  request.model = model;
  request.width = bucket.width == 0 ? model.width : bucket.width;
  request.height = bucket.height == 0 ? model.height : bucket.height;
  request.fps = model.fps;
  request.frames = 4 * bucket.latent_frames - 3;
  return plan_film(request);
}

}  // namespace

std::string training_cost(const TrainConfig& config, double flops_per_second) {
  const bool made = std::filesystem::exists(config.model);
  const ModelConfig model = find_model_config(made ? config.model : config.base);
  const double passes = config.recompute ? 4 : 3;
  std::string table = fmt::format("{:<24}{:>8}{:>9}{:>8}{:>14}{:>14}{:>12}\n", "stage", "steps", "tokens",
                                  "batch", "FLOP a step", "FLOP", "GPU hours");
  double all = 0;
  for (const StageConfig& stage : config.stages) {
    // Buckets take turns by their films, which are not known here: the dearest stands for all.
    std::vector<BucketConfig> buckets = stage.buckets;
    if (buckets.empty()) {
      buckets = {{0, 0, stage.latent_frames}};
    }
    double flops = 0;
    int64_t tokens = 0;
    for (const BucketConfig& bucket : buckets) {
      const FilmPlan plan = plan_of(model, bucket);
      const FlopCounts& forward = model.dit.attention.kind == AttentionKind::kFull ? plan.full : plan.moga;
      if (forward.total() > flops) {
        flops = forward.total();
        tokens = plan.layout.tokens();
      }
    }
    const double step = flops * passes * static_cast<double>(stage.batch);
    all += step * static_cast<double>(stage.steps);
    table += fmt::format("{:<24}{:>8}{:>9}{:>8}{:>14}{:>14}{:>12.3g}\n", stage.name, stage.steps, tokens,
                         stage.batch, human_count(step), human_count(step * static_cast<double>(stage.steps)),
                         step * static_cast<double>(stage.steps) / flops_per_second / 3600);
  }
  const FilmPlan longest = plan_of(model, {0, 0, config.stages.back().latent_frames});
  table += fmt::format("\n{} FLOP, {:.3g} hours of one GPU at {:.0f} TFLOP/s\n", human_count(all),
                       all / flops_per_second / 3600, flops_per_second / 1e12);
  if (config.trained == TrainedPart::kFull) {
    table += fmt::format("weights, gradients and optimiser: {}\n", human_bytes(longest.memory.weights_train));
  }
  return table;
}

}  // namespace moga
