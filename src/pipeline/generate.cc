#include "pipeline/generate.h"

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/log.h"
#include "base/progress.h"
#include "diffusion/flow.h"
#include "media/frame_tensor.h"
#include "media/picture.h"

namespace moga {

namespace fs = std::filesystem;

fs::path latents_path(const fs::path& output) {
  return fs::path(output).replace_extension(".latents.safetensors");
}

FilmSettings decide_settings(const GenerateRequest& request, const ModelFolder& model) {
  const ModelConfig& config = model.config();
  const FilmScript& script = request.script;
  const SamplingSettings& wish = script.sampling;
  FilmSettings settings;
  settings.width = script.width > 0 ? script.width : config.width;
  settings.height = script.height > 0 ? script.height : config.height;
  settings.fps = script.fps > 0 ? script.fps : config.fps;
  settings.seed = request.seed.value_or(script.seed);
  settings.solver = wish.solver.value_or(config.sampling.solver);
  settings.steps = request.steps.value_or(wish.steps.value_or(config.sampling.steps));
  settings.guidance = request.guidance.value_or(wish.guidance.value_or(config.sampling.guidance));
  settings.shift = request.shift.value_or(wish.shift.value_or(config.sampling.shift));
  settings.attention = enum_name(request.attention.value_or(config.dit.attention.kind));
  settings.model = config.name;
  settings.model_folder = model.path().string();
  MOGA_CHECK(settings.solver == "euler", "the solver '{}' is not known; this version has euler",
             settings.solver);
  MOGA_CHECK(settings.width % 16 == 0 && settings.height % 16 == 0,
             "the film's size must be a multiple of 16, found {}x{}", settings.width, settings.height);
  MOGA_CHECK(settings.guidance >= 0 && std::isfinite(settings.guidance),
             "guidance must not be negative, found {}", settings.guidance);
  flow_schedule(settings.steps, settings.shift);  // checks both
  model.check_complete();
  settings.model_fingerprint = model.fingerprint();
  return settings;
}

namespace {

struct Prompts {
  torch::Tensor conditional;    // [1, slots, rows, text_dim]
  torch::Tensor unconditional;  // the same shape: the negative prompt in every slot
};

// The text encoder lives only in here: it is dropped before the diffusion transformer is loaded.
Prompts encode_prompts(const FilmScript& script, const ModelFolder& model, torch::Device device) {
  const Tokenizer tokenizer = model.load_tokenizer();
  UmT5 encoder = model.load_text(device);
  const int64_t text_len = model.config().dit.text_len;
  std::vector<std::string> texts;
  for (size_t i = 0; i < script.shots.size(); ++i) {
    texts.push_back(script.shots[i].text);
    bool truncated = false;
    tokenizer.encode(texts.back(), static_cast<size_t>(text_len), &truncated);
    if (truncated) {
      spdlog::warn("shot {}: the prompt is longer than {} tokens and was cut", i + 1, text_len);
    }
  }
  if (!script.global.empty()) {
    texts.push_back(script.global);
  }
  const auto slots = static_cast<int64_t>(texts.size());
  texts.push_back(script.negative);
  const torch::Tensor all = encode_texts(encoder, tokenizer, texts, text_len);
  return {all.slice(0, 0, slots).unsqueeze(0), all.slice(0, slots).expand({slots, -1, -1}).unsqueeze(0)};
}

// [layers, F, Y, X] uint8.
torch::Tensor group_maps(const DitTrace& trace, const FilmLayout& layout) {
  std::vector<torch::Tensor> maps;
  for (const Routing& routing : trace.routing) {
    maps.push_back(
        routing.group_ids_L.view({layout.frames, layout.rows, layout.cols}).to(torch::kCPU, torch::kUInt8));
  }
  return maps.empty() ? torch::Tensor() : torch::stack(maps);
}

// One picture a shot, from the current estimate of the clean latents: two latent frames each, the last pixel
// frame of which is shown. Cheap beside a denoising step.
void write_preview(const fs::path& folder, int64_t done, const torch::Tensor& clean_BZFHW,
                   const FilmScript& script, WanVae& vae) {
  ContactRow row;
  row.heading = fmt::format("after step {}", done);
  const auto starts = script.shot_starts();
  for (size_t i = 0; i < starts.size(); ++i) {
    const int64_t end = i + 1 < starts.size() ? starts[i + 1] : script.latent_frames();
    const int64_t middle = (starts[i] + end) / 2;
    const int64_t begin = std::max<int64_t>(0, middle - 1);
    const torch::Tensor video = vae->decode(clean_BZFHW.slice(2, begin, middle + 1));
    row.frames.push_back(tensor_to_image(video[0].select(1, video.size(2) - 1)));
  }
  write_png(folder / fmt::format("step_{:03d}.png", done), contact_sheet(script.title, {row}, 160));
}

}  // namespace

FilmLatents sample_film(const GenerateRequest& request, torch::Device device) {
  const torch::NoGradGuard guard;
  const ModelFolder model(request.model);
  FilmLatents film;
  film.settings = decide_settings(request, model);
  film.settings.device = device.is_cuda() ? "cuda" : "cpu";
  film.script = request.script;
  film.script.width = film.settings.width;
  film.script.height = film.settings.height;
  film.script.fps = film.settings.fps;
  const FilmSettings& settings = film.settings;
  check_writable(request.output);
  if (!request.preview.empty()) {
    check_writable(request.preview / "step_000.png");
  }
  const fs::path saved = latents_path(request.output);
  const FilmLayout layout{film.script.latent_frames(), settings.height / 16, settings.width / 16,
                          film.script.shot_starts()};
  layout.check();
  const MogaConfig attention = [&] {
    MogaConfig config = model.config().dit.attention;
    config.kind = enum_value<AttentionKind>(settings.attention, "attention");
    return config;
  }();

  const FlowSchedule schedule = flow_schedule(settings.steps, settings.shift);
  const auto generator = at::detail::createCPUGenerator(settings.seed);
  const int64_t channels = model.config().dit.in_channels;
  torch::Tensor x =
      torch::randn({1, channels, layout.frames, layout.rows * 2, layout.cols * 2}, generator).to(device);
  if (request.resume && fs::exists(saved)) {
    FilmLatents earlier = read_film_latents(saved);
    MOGA_CHECK(
        config_to_json(earlier.settings) == config_to_json(settings) &&
            script_to_yaml(earlier.script) == script_to_yaml(film.script),
        "{} was made with another script, seed, model or settings; generate without --resume to start anew",
        saved.string());
    film = std::move(earlier);
    x = film.latent_ZFHW.unsqueeze(0).to(device);
    spdlog::info("continuing after step {} of {}", film.steps_done, settings.steps);
  }
  if (film.steps_done == settings.steps) {
    return film;
  }

  const Prompts prompts = encode_prompts(film.script, model, device);
  WanDit dit = model.load_dit(device, &attention);
  std::optional<WanVae> preview_vae;
  if (!request.preview.empty()) {
    preview_vae = model.load_vae(device);
  }
  const DitPlan plan =
      plan_dit({layout}, film.script.global.empty() ? GlobalText::kNone : GlobalText::kLastCaption,
               dit->config(), device);
  film.group_step = request.group_step.value_or(settings.steps * 3 / 4);
  MOGA_CHECK(film.group_step >= 0 && film.group_step < settings.steps,
             "the groups' step must be from 0 to {}, found {}", settings.steps - 1, film.group_step);

  Progress progress("denoise", settings.steps, "step", film.steps_done);
  int64_t step = film.steps_done;
  const Denoiser denoise = [&](const torch::Tensor& sample, int64_t timestep) {
    DitTrace trace;
    const bool keep = request.groups && step == film.group_step;
    const torch::Tensor t = torch::full({1}, static_cast<double>(timestep), torch::kFloat64).to(device);
    torch::Tensor v = dit->forward(sample, t, prompts.conditional, plan, keep ? &trace : nullptr);
    if (keep) {
      film.groups_NFYX = group_maps(trace, layout);
    }
    if (settings.guidance != 1) {
      v = guide(v, dit->forward(sample, t, prompts.unconditional, plan), settings.guidance);
    }
    return v;
  };
  const StepCallback after_step = [&](int64_t done, const torch::Tensor& sample, const torch::Tensor& clean) {
    step = done;
    film.steps_done = done;
    film.latent_ZFHW = sample[0].to(torch::kCPU);
    MOGA_CHECK(torch::isfinite(film.latent_ZFHW).all().item<bool>(), "the sample is not finite after step {}",
               done);
    if (request.checkpoint_every > 0 && done % request.checkpoint_every == 0 && done < settings.steps) {
      write_film_latents(saved, film);
    }
    if (preview_vae && done % request.preview_every == 0) {
      write_preview(request.preview, done, clean, film.script, *preview_vae);
    }
    progress.advance();
  };
  euler_sample(denoise, x, schedule, film.steps_done, after_step);
  write_film_latents(saved, film);
  return film;
}

}  // namespace moga
