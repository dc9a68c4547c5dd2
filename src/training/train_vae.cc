#include <ATen/Parallel.h>

#include "attention/upload.h"
#include "base/error.h"
#include "base/log.h"
#include "base/progress.h"
#include "data/film_source.h"
#include "media/frame_tensor.h"
#include "model/model_folder.h"
#include "training/train.h"

namespace moga {

namespace {

// Random crops of the first frames of a part's films, [B, T, 3, crop, crop] bytes.
torch::Tensor load_batch(const FilmSource& source, const StepContext& context, int64_t crop) {
  const StageConfig& stage = context.stage;
  const auto all = batch_indices(context.seed, 0, stage.batch, source.size());
  const int64_t first = context.part.begin(stage.batch);
  const std::vector<int64_t> indices(all.begin() + first, all.begin() + context.part.end(stage.batch));
  const int64_t frames = 4 * stage.latent_frames - 3;
  std::vector<torch::Tensor> videos(indices.size());
  at::parallel_for(0, static_cast<int64_t>(indices.size()), 1, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      const auto at = static_cast<size_t>(i);
      torch::Tensor video = source.film(indices[at]).video_TCHW;
      MOGA_CHECK(video.size(0) >= frames, "a training film has {} frames, the stage needs {}", video.size(0),
                 frames);
      video = video.slice(0, 0, frames);
      if (crop > 0) {
        // The position comes from the step's seed, so that a resumed run crops alike.
        const uint64_t draw = context.seed ^ (0x9E3779B97F4A7C15ULL * static_cast<uint64_t>(first + i + 1));
        const auto room = [&](int64_t size) {
          return static_cast<uint64_t>(std::max<int64_t>(0, size - crop) + 1);
        };
        const auto top = static_cast<int64_t>((draw >> 8U) % room(video.size(2)));
        const auto left = static_cast<int64_t>((draw >> 32U) % room(video.size(3)));
        video = video.slice(2, top, top + crop).slice(3, left, left + crop);
      }
      videos[at] = video.contiguous();
    }
  });
  return torch::stack(videos);
}

// Mean and standard deviation of each latent channel over some films, by streams of the first and second
// moments.
void measure_latent_scale(WanVae& vae, const FilmSource& source, torch::Device device) {
  const torch::NoGradGuard guard;
  const int64_t films = std::min<int64_t>(64, source.size());
  torch::Tensor sum;
  torch::Tensor squares;
  int64_t count = 0;
  Progress progress("latent scale", films, "film");
  vae->set_latent_scale({}, {});
  for (int64_t i = 0; i < films; ++i) {
    const torch::Tensor video = source.film(i).video_TCHW.to(device);
    const torch::Tensor z = vae->encode(bytes_to_unit(video).transpose(0, 1).unsqueeze(0))
                                .to(torch::kFloat64)
                                .transpose(0, 1)
                                .flatten(1);
    sum = sum.defined() ? sum + z.sum(1) : z.sum(1);
    squares = squares.defined() ? squares + z.square().sum(1) : z.square().sum(1);
    count += z.size(1);
    progress.advance();
  }
  const torch::Tensor mean = (sum / count).cpu();
  const torch::Tensor deviation = (squares.cpu() / count - mean.square()).clamp_min(1e-12).sqrt();
  const auto values = [](const torch::Tensor& t) {
    return std::vector<double>(t.data_ptr<double>(), t.data_ptr<double>() + t.numel());
  };
  vae->set_latent_scale(values(mean), values(deviation));
}

}  // namespace

TrainEnd train_vae(const TrainConfig& config, torch::Device device, const TrainOptions& options) {
  ModelFolder folder = ModelFolder::open_or_create(config.model, config.base);
  const ModelConfig& sizes = folder.config();
  torch::manual_seed(static_cast<int64_t>(config.seed));
  WanVae vae =
      config.start_from.empty() ? WanVae(sizes.vae) : ModelFolder(config.start_from).load_vae(device);
  vae->train();
  if (config.decoder_only) {
    for (torch::Tensor& parameter : vae->parameters()) {
      parameter.set_requires_grad(false);
    }
    for (torch::nn::Module* part : vae->decoder_parts()) {
      for (torch::Tensor& parameter : part->parameters()) {
        parameter.set_requires_grad(true);
      }
    }
  }
  FlatParameters flat({{"", vae.get()}}, device);
  spdlog::info("VAE of {} parameters on {}", human_count(static_cast<double>(flat.values().numel())),
               device.str());
  std::vector<std::unique_ptr<FilmSource>> sources;
  for (const StageConfig& stage : config.stages) {
    sources.push_back(open_films(stage.data.value_or(config.data), sizes.width, sizes.height));
  }
  TrainingStep step;
  step.inputs = [&](const StepContext& context) -> StepInputs {
    const auto& source = *sources[static_cast<size_t>(context.stage_index)];
    const torch::Tensor bytes = load_batch(source, context, config.crop);
    const torch::Tensor video = bytes_to_unit(upload(bytes, device)).transpose(1, 2).contiguous();
    const int64_t B = context.stage.batch;
    const torch::Tensor noise =
        torch::randn({B, sizes.vae.z_dim, context.stage.latent_frames, video.size(3) / 8, video.size(4) / 8},
                     video.options());
    return {{video, noise.slice(0, context.part.begin(B), context.part.end(B))}};
  };
  step.loss = [&](const StepContext&, const StepInputs& inputs) {
    const torch::Tensor &video = inputs.tensors[0], &noise = inputs.tensors[1];
    const auto [mean, log_variance] = [&] {
      const torch::AutoGradMode gradient(!config.decoder_only);
      return vae->encode_moments(video);
    }();
    const torch::Tensor bounded = log_variance.clamp(-30, 20);
    const torch::Tensor latent = mean + torch::exp(0.5 * bounded) * noise;
    const torch::Tensor difference = vae->decode_unscaled(latent) - video;
    const torch::Tensor squared = difference.square().mean();
    const torch::Tensor kl = 0.5 * (mean.square() + bounded.exp() - 1 - bounded).mean();
    StepResult result;
    result.loss = config.l1_weight * difference.abs().mean() + squared + config.kl_weight * kl;
    // Pixels span [-1, 1], so the peak is 2.
    result.metrics = {{"psnr_db", 10 * torch::log10(4 / squared.detach())}, {"kl", kl.detach()}};
    return result;
  };
  const TrainEnd end = run_training(config, flat, step, {options.accept_changes, {}});
  if (end == TrainEnd::kFinished) {
    vae->eval();
    if (!config.decoder_only) {
      measure_latent_scale(vae, *sources.back(), device);
    }
    folder.save_vae(vae);
  }
  return end;
}

}  // namespace moga
