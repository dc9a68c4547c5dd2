#include "attention/upload.h"
#include "base/error.h"
#include "base/log.h"
#include "data/toy_world.h"
#include "model/model_folder.h"
#include "model/vae_hash.h"
#include "training/latent_pool.h"
#include "training/train.h"

namespace moga {

namespace {

// A pool on the training device with its captions tokenised once.
struct StageData {
  LatentPool pool;
  torch::Tensor ids;                // [texts, rows] int64: all captions of all films; row 0 is the empty text
  torch::Tensor mask;               // [texts, rows]
  std::vector<int64_t> first_text;  // a film: index of its first caption in ids
  std::vector<FilmLayout> layouts;
  DitPlanSizes sizes;
  DitPlan plan;  // of the newest batch
};

StageData prepare_stage(LatentPool pool, const Tokenizer& tokenizer, const DitConfig& config,
                        torch::Device device) {
  StageData data;
  std::vector<std::string> texts = {""};
  for (const auto& captions : pool.captions) {
    data.first_text.push_back(static_cast<int64_t>(texts.size()));
    texts.insert(texts.end(), captions.begin(), captions.end());
  }
  const auto [ids, mask] = tokenize_texts(tokenizer, texts, config.text_len);
  data.ids = ids.to(device);
  data.mask = mask.to(device);
  pool.latents_PZFHW = pool.latents_PZFHW.to(device);
  for (const auto& starts : pool.shot_starts) {
    data.layouts.push_back(
        {pool.latents_PZFHW.size(2), pool.latents_PZFHW.size(3) / 2, pool.latents_PZFHW.size(4) / 2, starts});
  }
  data.sizes = dit_plan_sizes(data.layouts, GlobalText::kNone, config);
  data.pool = std::move(pool);
  return data;
}

// Caption slots of a batch, [B * slots] indices into StageData::ids; films with fewer shots repeat the empty
// text, and films that lose their captions (for classifier-free guidance) have nothing else.
std::vector<int64_t> caption_rows(const StageData& data, const std::vector<int64_t>& films, int64_t slots,
                                  const torch::Tensor& dropped) {
  std::vector<int64_t> rows;
  for (size_t b = 0; b < films.size(); ++b) {
    const auto film = static_cast<size_t>(films[b]);
    const auto shots = static_cast<int64_t>(data.pool.captions[film].size());
    const bool drop = dropped[static_cast<int64_t>(b)].item<bool>();
    for (int64_t s = 0; s < slots; ++s) {
      rows.push_back(s < shots && !drop ? data.first_text[film] + s : 0);
    }
  }
  return rows;
}

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

}  // namespace

TrainEnd train_dit(const TrainConfig& config, torch::Device device) {
  ModelFolder folder(config.model);
  const ModelConfig& sizes = folder.config();
  const Tokenizer tokenizer = folder.load_tokenizer();
  torch::manual_seed(static_cast<int64_t>(config.seed));
  ModelSource start(config.start_from);
  start.precision = Precision::kF32;  // masters; a step would be lost in a bfloat16 weight's rounding
  WanDit dit = config.start_from.empty() ? fresh_dit(sizes.dit)
                                         : ModelFolder(start).load_dit(device, &sizes.dit.attention);
  dit->train();
  dit->recompute_blocks(config.recompute);
  UmT5 text = config.start_from.empty() && config.train_text
                  ? UmT5(sizes.text)
                  : (config.train_text ? ModelFolder(start) : folder).load_text(device);
  text->to(device);
  std::vector<torch::nn::Module*> trained = {dit.get()};
  if (config.train_text) {
    trained.push_back(text.get());
  }

  std::vector<StageData> stages;
  {
    WanVae vae = folder.load_vae(device);
    const std::string vae_name = vae_hash(folder);
    for (const StageConfig& stage : config.stages) {
      const DataConfig& data = stage.data.value_or(config.data);
      stages.push_back(
          prepare_stage(make_latent_pool(data, sizes.width, sizes.height, stage.latent_frames, vae, vae_name,
                                         std::filesystem::path(config.work) / "latents"),
                        tokenizer, sizes.dit, device));
    }
  }
  FlatParameters flat(trained, device);
  spdlog::info("diffusion transformer{} of {} parameters on {}", config.train_text ? " and text encoder" : "",
               human_count(static_cast<double>(flat.values().numel())), device.str());

  TrainingStep step;
  step.inputs = [&](const StepContext& context) {
    StageData& data = stages[static_cast<size_t>(context.stage_index)];
    const int64_t B = context.stage.batch;
    const auto films = batch_indices(config.seed, context.step, B, data.pool.latents_PZFHW.size(0));
    std::vector<FilmLayout> layouts;
    for (const int64_t film : films) {
      layouts.push_back(data.layouts[static_cast<size_t>(film)]);
    }
    data.plan = plan_dit(layouts, GlobalText::kNone, sizes.dit, device, torch::kFloat32, &data.sizes);
    const torch::Tensor clean =
        data.pool.latents_PZFHW.index_select(0, upload(torch::tensor(films), device)).to(torch::kFloat32);
    const torch::Tensor dropped = torch::rand({B}) < config.caption_dropout;
    const torch::Tensor rows =
        upload(torch::tensor(caption_rows(data, films, data.plan.captions, dropped)), device);
    std::vector<torch::Tensor> inputs = {
        clean, torch::randn_like(clean),
        upload(draw_noise_levels(B, config.noise, config.noise_shift), device),
        data.ids.index_select(0, rows), data.mask.index_select(0, rows)};
    for (const torch::Tensor* tensor : plan_tensors(data.plan)) {
      inputs.push_back(*tensor);
    }
    return inputs;
  };
  step.loss = [&](const StepContext& context, const std::vector<torch::Tensor>& inputs) {
    DitPlan plan = stages[static_cast<size_t>(context.stage_index)].plan;
    size_t next = 0;
    const torch::Tensor clean = inputs[next++], noise = inputs[next++], levels = inputs[next++],
                        ids = inputs[next++], mask = inputs[next++];
    for (torch::Tensor* tensor : plan_tensors(plan)) {
      *tensor = inputs[next++];
    }
    torch::Tensor captions;
    {
      const torch::AutoGradMode gradient(config.train_text);
      captions = (text->forward(ids, mask) * mask.unsqueeze(-1)).unflatten(0, {plan.batch, plan.captions});
    }
    const FlowPair pair = make_flow_pair(clean, noise, levels);
    DitTrace trace;
    const torch::Tensor predicted = dit->forward(pair.noisy, levels * 1000, captions, plan, &trace);
    StepResult result;
    const torch::Tensor flow_loss = (predicted - pair.target).square().mean();
    result.loss = flow_loss;
    result.metrics = {{"flow", flow_loss.detach()}};
    if (!trace.routing.empty()) {
      torch::Tensor balance = torch::zeros({}, flow_loss.options());
      std::vector<torch::Tensor> shares;
      for (const Routing& routing : trace.routing) {
        balance = balance + balance_loss(routing, config.balance_form);
        shares.push_back(group_occupancy(routing));
      }
      result.loss = flow_loss + config.balance_weight * balance;
      const torch::Tensor occupancy = torch::stack(shares);
      result.metrics.insert(result.metrics.end(), {{"balance", balance.detach()},
                                                   {"occupancy_least", occupancy.min()},
                                                   {"occupancy_most", occupancy.max()}});
    }
    return result;
  };
  const TrainEnd end = run_training(config, flat, step);
  if (end == TrainEnd::kFinished) {
    folder.save_dit(dit);
    if (config.train_text) {
      folder.save_text(text);
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
