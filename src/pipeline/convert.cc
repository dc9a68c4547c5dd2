#include "pipeline/convert.h"

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/log.h"
#include "base/progress.h"
#include "io/safetensors.h"
#include "media/frame_tensor.h"
#include "model/model_sizes.h"

namespace moga {

namespace fs = std::filesystem;
using nlohmann::ordered_json;
using torch::Tensor;

namespace {

bool is_router(const std::string& official) {
  return official.find(".router.") != std::string::npos;
}

// Every parameter that the part's network has, official name -> stored name; routers left out.
NameMatch match_part(const FoundPart& part, const Checkpoint& checkpoint, const ModelConfig& config) {
  ShapeMap found = checkpoint_shapes(checkpoint);
  std::erase_if(found, [](const auto& entry) { return is_router(entry.first); });
  ShapeMap expected;
  if (part.what.part == PartKind::kDit) {
    DitConfig dit = config.dit;
    dit.attention.kind = AttentionKind::kFull;
    expected = network_shapes<WanDit>(dit);
  } else {
    expected = part.what.part == PartKind::kVae ? network_shapes<WanVae>(config.vae)
                                                : network_shapes<UmT5>(config.text);
  }
  NameMatch match = match_names(expected, found, part.what, config.vae.res_blocks);
  MOGA_CHECK(match.fits(), "{} does not fit the model: {}", part.file.string(), match.problems());
  return match;
}

// Copies a part a tensor at a time, in the stored dtype, with `routers` added.
void write_part(const FoundPart& part, const ModelConfig& config, Naming naming, const fs::path& file,
                const TensorMap& routers = {}) {
  const Checkpoint checkpoint(part.file);
  const NameMatch match = match_part(part, checkpoint, config);
  std::vector<TensorToWrite> list;
  std::map<std::string, std::string> stored_of;
  for (const auto& [official, stored] : match.stored) {
    const TensorInfo& info = checkpoint.tensors().at(stored);
    const std::string name = name_in(naming, part.what.part, official, config.vae.res_blocks);
    list.push_back({name, info.dtype, info.shape});
    stored_of.emplace(name, stored);
  }
  for (const auto& [name, tensor] : routers) {
    list.push_back({name, tensor.scalar_type(), tensor.sizes().vec()});
  }
  Progress progress("write " + file.filename().string(), static_cast<int64_t>(list.size()), "tensor");
  write_safetensors(file, std::move(list),
                    [&](const std::string& name) {
                      progress.advance();
                      const auto router = routers.find(name);
                      return router != routers.end() ? router->second : checkpoint.read(stored_of.at(name));
                    },
                    {{"format", "pt"}});
  progress.finish();
}

void copy_tokenizer(const fs::path& from, const fs::path& to) {
  if (!from.empty()) {
    write_file_atomic(to, read_file(from));
  }
}

// A noised clip and everything that a forward pass over it needs.
struct Sample {
  Tensor noisy_BZFHW;
  Tensor timestep_B;
  Tensor captions_BSRT;
  FilmLayout layout;
  bool measured = false;
};

std::vector<Sample> make_samples(const ConvertRequest& request, const ModelFolder& model,
                                 torch::Device device) {
  std::vector<Sample> samples;
  const int64_t text_len = model.config().dit.text_len;
  std::vector<Tensor> captions;
  if (model.parts().part(PartKind::kText) && !model.parts().tokenizer.empty()) {
    const Tokenizer tokenizer = model.load_tokenizer();
    UmT5 text = model.load_text(device);
    for (const CalibrationClip& clip : request.clips) {
      captions.push_back(encode_texts(text, tokenizer, clip.captions, text_len).unsqueeze(0));
    }
  } else {
    warn("{} has no text encoder: calibration runs with empty captions", request.model.model.string());
    for (const CalibrationClip& clip : request.clips) {
      captions.push_back(torch::zeros(
          {1, static_cast<int64_t>(clip.captions.size()), 1, model.config().dit.text_dim}, device));
    }
  }
  WanVae vae = model.load_vae(device);
  const auto generator = at::detail::createCPUGenerator(request.seed);
  for (size_t i = 0; i < request.clips.size(); ++i) {
    const CalibrationClip& clip = request.clips[i];
    const Tensor clean = vae->encode(
        bytes_to_unit(clip.video_TCHW.transpose(0, 1)).unsqueeze(0).to(device));  // [1, Z, F, h, w]
    const FilmLayout layout{clean.size(2), clean.size(3) / 2, clean.size(4) / 2, clip.shot_starts};
    for (const double level : request.noise_levels) {
      const Tensor noise = torch::randn(clean.sizes(), generator).to(device);
      samples.push_back({(1 - level) * clean + level * noise,
                         torch::full({1}, 1000 * level, torch::kFloat64).to(device), captions[i], layout,
                         i + 1 == request.clips.size()});
    }
  }
  return samples;
}

struct SquareSums {  // sums of squares
  double difference = 0;
  double reference = 0;
  void add(const Tensor& found, const Tensor& expected) {
    difference += (found - expected).to(torch::kFloat64).square().sum().item<double>();
    reference += expected.to(torch::kFloat64).square().sum().item<double>();
  }
  double relative() const { return std::sqrt(difference / std::max(reference, 1e-300)); }
};

Routing route(const RouterWeights& router, const Tensor& hidden_LC) {
  Routing routing;
  routing.probs_LM = torch::softmax(torch::addmm(router.bias_M.to(hidden_LC.device()), hidden_LC,
                                                 router.weight_MC.to(hidden_LC.device()).t()),
                                    -1);
  std::tie(routing.top_prob_L, routing.group_ids_L) = routing.probs_LM.max(-1);
  return routing;
}

// One block's visual attention: what went in and what came out, before the output projection.
struct AttentionView {
  torch::Tensor hidden_BLC;  // what a router sees
  torch::Tensor q_LND;
  torch::Tensor k_LND;
  torch::Tensor v_LND;
  torch::Tensor out_LND;
};

// An observer of a pass that hands on each block's visual attention, in turn.
Observer watch_attention(std::function<void(const AttentionView&)> see) {
  return [see = std::move(see), view = std::make_shared<AttentionView>()](const std::string& name,
                                                                          const Tensor& value) {
    const std::pair<const char*, Tensor AttentionView::*> kParts[] = {
        {".self_attn.in", &AttentionView::hidden_BLC},
        {".self_attn.q_rope", &AttentionView::q_LND},
        {".self_attn.k_rope", &AttentionView::k_LND},
        {".self_attn.v", &AttentionView::v_LND},
        {".self_attn.core", &AttentionView::out_LND}};
    for (const auto& [ending, part] : kParts) {
      if (name.ends_with(ending)) {
        (*view).*part = value;
      }
    }
    if (name.ends_with(".self_attn.core")) {  // the last of them
      see(*view);
      *view = {};
    }
  };
}

using Routers = std::vector<RouterWeights>;  // one a block

Tensor run(WanDit& dit, const Sample& sample, const DitConfig& config, DitTrace* trace) {
  const DitPlan plan = plan_dit({sample.layout}, GlobalText::kNone, config, sample.noisy_BZFHW.device());
  return dit->forward(sample.noisy_BZFHW, sample.timestep_B, sample.captions_BSRT, plan, trace);
}

DitConfig with_attention(DitConfig config, const ConvertRequest& request, AttentionKind kind) {
  config.attention.kind = kind;
  config.attention.groups = request.groups;
  config.attention.windows = request.windows;
  return config;
}

// Hidden tokens of every block, from the samples that are not measured (or from all, if there are no others).
Routers kmeans_routers(WanDit& dit, const DitConfig& full, const ConvertRequest& request,
                       const std::vector<Sample>& samples) {
  std::vector<const Sample*> used;
  for (const Sample& sample : samples) {
    if (!sample.measured || request.clips.size() == 1) {
      used.push_back(&sample);
    }
  }
  auto generator = at::detail::createCPUGenerator(request.seed + 1);
  std::vector<std::vector<Tensor>> tokens(static_cast<size_t>(full.layers));
  const int64_t share = std::max<int64_t>(1, request.tokens / static_cast<int64_t>(used.size()));
  Progress progress("look at clips", static_cast<int64_t>(used.size()), "pass");
  for (const Sample* sample : used) {
    size_t block = 0;
    DitTrace trace;
    trace.observe = watch_attention([&](const AttentionView& view) {
      const Tensor hidden_LC = view.hidden_BLC.flatten(0, 1);
      const Tensor rows = torch::randperm(hidden_LC.size(0), generator, torch::kInt64).slice(0, 0, share);
      tokens[block++].push_back(hidden_LC.index_select(0, rows.to(hidden_LC.device())).to(torch::kCPU));
    });
    run(dit, *sample, full, &trace);
    progress.advance();
  }
  progress.finish();
  Routers routers;
  Progress clustering("k-means", full.layers, "block");
  for (int64_t block = 0; block < full.layers; ++block) {
    const Tensor all = torch::cat(tokens[static_cast<size_t>(block)]);
    routers.push_back(kmeans_router(all, request.groups, request.seed + static_cast<uint64_t>(block)));
    clustering.advance();
  }
  return routers;
}

Routers random_routers(const DitConfig& config, const ConvertRequest& request) {
  Routers routers;
  for (int64_t block = 0; block < config.layers; ++block) {
    routers.push_back(random_router(config.dim, request.groups, request.seed + static_cast<uint64_t>(block)));
  }
  return routers;
}

TensorMap router_tensors(const Routers& routers) {
  TensorMap tensors;
  for (size_t block = 0; block < routers.size(); ++block) {
    tensors[fmt::format("blocks.{}.self_attn.router.weight", block)] = routers[block].weight_MC;
    tensors[fmt::format("blocks.{}.self_attn.router.bias", block)] = routers[block].bias_M;
  }
  return tensors;
}

// Per-block distances of each start; full attention's predictions are returned.
std::vector<Tensor> measure_blocks(WanDit& dit, const DitConfig& full, const DitConfig& moga,
                                   const std::vector<const Sample*>& measured,
                                   const std::vector<const Routers*>& starts,
                                   std::vector<StartDistance>& out) {
  const auto layers = static_cast<size_t>(full.layers);
  std::vector<std::vector<SquareSums>> errors(starts.size(), std::vector<SquareSums>(layers));
  std::vector<Tensor> predictions;
  Progress progress("measure blocks", static_cast<int64_t>(measured.size()), "pass");
  for (const Sample* sample : measured) {
    const StaticPlan plan =
        plan_static_groups(sample->layout, moga.attention, 1, sample->noisy_BZFHW.device());
    size_t block = 0;
    DitTrace trace;
    trace.observe = watch_attention([&](const AttentionView& view) {
      for (size_t i = 0; i < starts.size(); ++i) {
        const Routing routing = route((*starts[i])[block], view.hidden_BLC.flatten(0, 1));
        const Tensor found =
            visual_attention(view.q_LND, view.k_LND, view.v_LND, plan, routing, moga.attention);
        errors[i][block].add(found, view.out_LND);
        const double passes = static_cast<double>(measured.size()) * static_cast<double>(layers);
        out[i].top_probability += routing.top_prob_L.mean().item<double>() / passes;
        out[i].largest_group += group_occupancy(routing).max().item<double>() / passes;
      }
      ++block;
    });
    predictions.push_back(run(dit, *sample, full, &trace));
    progress.advance();
  }
  progress.finish();
  for (size_t i = 0; i < starts.size(); ++i) {
    for (const SquareSums& error : errors[i]) {
      out[i].blocks.push_back(error.relative());
    }
  }
  return predictions;
}

double measure_prediction(WanDit& dit, const DitConfig& moga, const std::vector<const Sample*>& measured,
                          const Routers& routers, const std::vector<Tensor>& expected) {
  const TensorMap tensors = router_tensors(routers);
  for (auto& item : dit->named_parameters()) {
    if (const auto found = tensors.find(item.key()); found != tensors.end()) {
      item.value().copy_(found->second);
    }
  }
  SquareSums error;
  for (size_t i = 0; i < measured.size(); ++i) {
    error.add(run(dit, *measured[i], moga, nullptr), expected[i]);
  }
  return error.relative();
}

}  // namespace

ConvertReport convert_to_moga(const ConvertRequest& request, torch::Device device) {
  const torch::NoGradGuard guard;
  const ModelFolder model(request.model);
  const ModelParts parts = model.parts();
  const auto dit_part = parts.part(PartKind::kDit);
  MOGA_CHECK(dit_part.has_value(), "{} lacks the transformer", request.model.model.string());
  MOGA_CHECK(request.groups >= 1 && request.groups <= 256, "--groups: expected 1 to 256, found {}",
             request.groups);
  MOGA_CHECK(
      request.router == RouterStart::kRandom || !request.clips.empty(),
      "routers that start from k-means need calibration clips; give --calibration toy or a folder of clips");
  check_writable(request.output / "moga.json");

  ModelConfig config = model.config();
  const DitConfig full = with_attention(config.dit, request, AttentionKind::kFull);
  config.dit = with_attention(config.dit, request, AttentionKind::kMoga);
  check_model_config(config, request.model.model.string());
  for (const CalibrationClip& clip : request.clips) {
    const FilmLayout layout{(clip.video_TCHW.size(0) - 1) / 4 + 1, clip.video_TCHW.size(2) / 16,
                            clip.video_TCHW.size(3) / 16, clip.shot_starts};
    layout.check();
    window_groups(layout, request.windows);  // throws if the windows do not fit
  }

  Routers routers = random_routers(config.dit, request);
  ConvertReport report;
  std::vector<Sample> samples;
  std::vector<const Sample*> measured;
  std::vector<Tensor> predictions;
  std::vector<Routers> starts = {routers};
  std::vector<StartDistance> distances(1);
  if (!request.clips.empty()) {
    samples = make_samples(request, model, device);
    for (const Sample& sample : samples) {
      if (sample.measured) {
        measured.push_back(&sample);
      }
    }
    WanDit dit = model.load_dit(device, &full.attention);
    if (request.router == RouterStart::kKmeans) {
      routers = kmeans_routers(dit, full, request, samples);
      starts.push_back(routers);
      distances.resize(2);
    }
    std::vector<const Routers*> views;
    for (const Routers& start : starts) {
      views.push_back(&start);
    }
    predictions = measure_blocks(dit, full, config.dit, measured, views, distances);
  }

  AtomicFolder output(request.output);
  write_file_atomic(output.path() / "moga.json", config_to_json(config).dump(2) + "\n");
  write_part(*dit_part, config, Naming::kWan, output.path() / "dit.safetensors", router_tensors(routers));
  if (const auto vae = parts.part(PartKind::kVae)) {
    write_part(*vae, config, Naming::kWan, output.path() / "vae.safetensors");
  }
  if (const auto text = parts.part(PartKind::kText)) {
    write_part(*text, config, Naming::kWan, output.path() / "text.safetensors");
  }
  copy_tokenizer(parts.tokenizer, output.path() / "tokenizer.model");

  if (!measured.empty()) {
    // The very files that were written, so that what is measured is what will be used.
    WanDit dit = ModelFolder(output.path()).load_dit(device);
    Progress progress("measure predictions", static_cast<int64_t>(starts.size()), "start");
    for (size_t i = 0; i < starts.size(); ++i) {
      distances[i].prediction = measure_prediction(dit, config.dit, measured, starts[i], predictions);
      progress.advance();
    }
    progress.finish();
    report.random = distances[0];
    if (starts.size() > 1) {
      report.kmeans = distances[1];
    }
  }
  output.commit();
  return report;
}

// config.json as the official and the diffusers transformer have it.
ordered_json dit_config_json(const DitConfig& dit, Naming naming) {
  if (naming == Naming::kWan) {
    return {{"_class_name", "WanModel"},
            {"_diffusers_version", "0.30.0"},
            {"dim", dit.dim},
            {"eps", dit.eps},
            {"ffn_dim", dit.ffn_dim},
            {"freq_dim", dit.freq_dim},
            {"in_dim", dit.in_channels},
            {"model_type", "t2v"},
            {"num_heads", dit.heads},
            {"num_layers", dit.layers},
            {"out_dim", dit.out_channels},
            {"text_len", dit.text_len}};
  }
  return {{"_class_name", "WanTransformer3DModel"},
          {"added_kv_proj_dim", nullptr},
          {"attention_head_dim", dit.head_dim()},
          {"cross_attn_norm", true},
          {"eps", dit.eps},
          {"ffn_dim", dit.ffn_dim},
          {"freq_dim", dit.freq_dim},
          {"in_channels", dit.in_channels},
          {"num_attention_heads", dit.heads},
          {"num_layers", dit.layers},
          {"out_channels", dit.out_channels},
          {"patch_size", {1, 2, 2}},
          {"qk_norm", "rms_norm_across_heads"},
          {"text_dim", dit.text_dim}};
}

namespace {

ordered_json vae_config_json(const VaeConfig& vae) {
  return {{"_class_name", "AutoencoderKLWan"},
          {"base_dim", vae.dim},
          {"z_dim", vae.z_dim},
          {"dim_mult", vae.dim_mult},
          {"num_res_blocks", vae.res_blocks},
          {"attn_scales", ordered_json::array()},
          {"latents_mean", vae.latents_mean},
          {"latents_std", vae.latents_std}};
}

ordered_json text_config_json(const TextEncoderConfig& text) {
  return {{"architectures", {"UMT5EncoderModel"}},
          {"model_type", "umt5"},
          {"vocab_size", text.vocab_size},
          {"d_model", text.dim},
          {"d_kv", text.dim_attn / text.heads},
          {"d_ff", text.dim_ffn},
          {"num_heads", text.heads},
          {"num_layers", text.layers},
          {"relative_attention_num_buckets", text.buckets},
          {"relative_attention_max_distance", text.max_distance},
          {"layer_norm_epsilon", text.eps},
          {"feed_forward_proj", "gated-gelu"}};
}

void write_json(const fs::path& file, const ordered_json& json) {
  write_file_atomic(file, json.dump(2) + "\n");
}

}  // namespace

void convert_names(const ModelSource& source, const fs::path& output, Naming naming) {
  const ModelFolder model(source);
  const ModelParts parts = model.parts();
  const ModelConfig& config = model.config();
  check_writable(output / "config.json");
  AtomicFolder folder(output);
  const bool wan = naming == Naming::kWan;
  const fs::path root = folder.path();
  const auto write = [&](PartKind kind, const fs::path& file) {
    const auto part = parts.part(kind);
    if (part) {
      write_part(*part, config, naming, root / file);
    } else {
      warn("{} has no {}; none is written", source.model.string(), enum_name(kind));
    }
    return part.has_value();
  };
  const fs::path weights = "diffusion_pytorch_model.safetensors";
  MOGA_CHECK(write(PartKind::kDit, wan ? weights : "transformer" / weights), "{} lacks the transformer",
             source.model.string());
  write_json(root / (wan ? "config.json" : "transformer/config.json"), dit_config_json(config.dit, naming));
  if (write(PartKind::kVae, wan ? fs::path("Wan2.1_VAE.safetensors") : "vae" / weights) && !wan) {
    write_json(root / "vae/config.json", vae_config_json(config.vae));
  }
  if (write(PartKind::kText,
            wan ? "models_t5_umt5-xxl-enc-bf16.safetensors" : "text_encoder/model.safetensors") &&
      !wan) {
    write_json(root / "text_encoder/config.json", text_config_json(config.text));
  }
  copy_tokenizer(parts.tokenizer, root / (wan ? "google/umt5-xxl/spiece.model" : "tokenizer/spiece.model"));
  if (!wan) {
    write_json(root / "scheduler/scheduler_config.json", {{"_class_name", "UniPCMultistepScheduler"},
                                                          {"num_train_timesteps", 1000},
                                                          {"prediction_type", "flow_prediction"},
                                                          {"use_flow_sigmas", true},
                                                          {"flow_shift", config.sampling.shift}});
    write_json(root / "model_index.json", {{"_class_name", "WanPipeline"},
                                           {"scheduler", {"diffusers", "UniPCMultistepScheduler"}},
                                           {"text_encoder", {"transformers", "UMT5EncoderModel"}},
                                           {"tokenizer", {"transformers", "T5TokenizerFast"}},
                                           {"transformer", {"diffusers", "WanTransformer3DModel"}},
                                           {"vae", {"diffusers", "AutoencoderKLWan"}}});
  }
  folder.commit();
}

ordered_json convert_report_to_json(const ConvertReport& report) {
  auto json = ordered_json::object();
  const auto add = [&](const char* name, const std::optional<StartDistance>& start) {
    if (start) {
      json[name] = {{"blocks", start->blocks},
                    {"prediction", start->prediction},
                    {"top_probability", start->top_probability},
                    {"largest_group", start->largest_group}};
    }
  };
  add("random", report.random);
  add("kmeans", report.kmeans);
  return json;
}

}  // namespace moga
