#include "pipeline/generate.h"

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/fingerprint.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/threads.h"
#include "diffusion/solver.h"
#include "media/frame_tensor.h"
#include "media/picture.h"
#include "model/prompt_embeddings.h"

namespace moga {

namespace fs = std::filesystem;

ScriptDefaults script_defaults(const ModelConfig& model) {
  ScriptDefaults defaults;
  defaults.width = model.width;
  defaults.height = model.height;
  defaults.fps = model.fps;
  defaults.text_words = model.dit.text_len * 3 / 4;  // about three words fill four text tokens
  for (const auto& [solver, name] : EnumNames<Solver>::kNames) {
    defaults.solvers.emplace_back(name);
  }
  return defaults;
}

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
  settings.solver = request.solver.value_or(wish.solver.value_or(config.sampling.solver));
  settings.steps = request.steps.value_or(wish.steps.value_or(config.sampling.steps));
  settings.guidance = request.guidance.value_or(wish.guidance.value_or(config.sampling.guidance));
  settings.shift = request.shift.value_or(wish.shift.value_or(config.sampling.shift));
  settings.passes = enum_name(request.passes);
  settings.negative = script.negative.value_or(config.sampling.negative);
  settings.attention = enum_name(request.attention.value_or(config.dit.attention.kind));
  settings.model = config.name;
  settings.model_folder = model.path().string();
  MOGA_CHECK(settings.width % 16 == 0 && settings.height % 16 == 0,
             "the film's size must be a multiple of 16, found {}x{}", settings.width, settings.height);
  MOGA_CHECK(settings.guidance >= 0 && std::isfinite(settings.guidance),
             "guidance must not be negative, found {}", settings.guidance);
  flow_schedule(enum_value<Solver>(settings.solver, "solver"), settings.steps, settings.shift);  // checks all
  model.check_complete();
  settings.model_fingerprint = model.fingerprint();
  return settings;
}

namespace {

// The text encoder lives only in here, if at all: it is dropped before the diffusion transformer is loaded.
Prompts encode_prompts(const FilmLatents& film, const ModelFolder& model, const fs::path& cache,
                       torch::Device device) {
  const FilmScript& script = film.script;
  TextSource source;
  source.fingerprint = model.text_fingerprint();
  source.text_len = model.config().dit.text_len;
  source.load_tokenizer = [&] { return model.load_tokenizer(); };
  source.load_encoder = [&] { return model.load_text(device); };
  std::vector<std::string> texts;
  std::vector<std::string> names;
  for (const Shot& shot : script.shots) {
    texts.push_back(shot.text);
    names.push_back(fmt::format("the prompt of shot {}", texts.size()));
  }
  if (!script.global.empty()) {
    texts.push_back(script.global);
    names.emplace_back("the film-wide text");
  }
  const auto slots = static_cast<int64_t>(texts.size());
  const bool guided = film.settings.guidance != 1;
  if (guided) {
    texts.push_back(film.settings.negative);
    names.emplace_back("the negative prompt");
  }
  const std::vector<TextEmbedding> embeddings = embed_texts(source, texts, cache, device);
  int64_t rows = 0;
  for (const TextEmbedding& embedding : embeddings) {
    rows = std::max(rows, embedding.rows_RT.size(0));
  }
  std::vector<torch::Tensor> padded;
  for (size_t i = 0; i < embeddings.size(); ++i) {
    const torch::Tensor& text = embeddings[i].rows_RT;
    padded.push_back(torch::constant_pad_nd(text, {0, 0, 0, rows - text.size(0)}, 0));
    if (embeddings[i].truncated) {
      spdlog::warn("{} is longer than {} tokens and was cut", names[i], source.text_len);
    }
  }
  const torch::Tensor all = torch::stack(padded).to(device);
  Prompts prompts;
  prompts.conditional = all.slice(0, 0, slots).unsqueeze(0);
  if (guided) {
    prompts.unconditional = all.slice(0, slots).expand({slots, -1, -1}).unsqueeze(0);
  }
  return prompts;
}

// The picture in the film's size.
std::optional<cv::Mat> read_first_frame(const FilmScript& script, const FilmSettings& settings) {
  if (script.first_frame_picture.empty()) {
    return std::nullopt;
  }
  return fill_size(read_image(script.first_frame_path()), settings.width, settings.height);
}

// The state in which an unfinished film was saved.
SolverState solver_state(const FilmLatents& film, torch::Device device) {
  SolverState state;
  state.done = film.steps_done;
  state.x = film.latent_ZFHW.unsqueeze(0).to(device);
  std::map<std::string, torch::Tensor> memory;
  for (const auto& [name, tensor] : film.solver_memory) {
    memory[name] = tensor.to(device);
  }
  state.set_memory(memory);
  return state;
}

// Text and pictures from the process that has encoded them.
Prompts share_prompts(const Prompts& prompts, Communicator& ranks) {
  return {ranks.broadcast_any(prompts.conditional, 0, "prompts"),
          ranks.broadcast_any(prompts.unconditional, 0, "negative prompt")};
}

// [layers, F, Y, X] uint8.
torch::Tensor group_maps(const DitTrace& trace, const DitPlan& plan) {
  const FilmLayout& layout = plan.layout;
  std::vector<torch::Tensor> maps;
  for (const Routing& routing : trace.routing) {
    const torch::Tensor ids = plan.visual.sequence == nullptr
                                  ? routing.group_ids_L
                                  : plan.visual.sequence->gather_ids(routing.group_ids_L);
    maps.push_back(ids.slice(0, 0, layout.tokens())  // of the pass with text
                       .view({layout.frames, layout.rows, layout.cols})
                       .to(torch::kCPU, torch::kUInt8));
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
  const std::optional<cv::Mat> first_frame = read_first_frame(film.script, film.settings);
  if (first_frame) {
    const torch::Tensor bytes = image_to_tensor(*first_frame);
    film.settings.first_frame =
        content_hash({static_cast<const char*>(bytes.data_ptr()), static_cast<size_t>(bytes.numel())});
  }
  const FilmSettings& settings = film.settings;
  const bool first = request.ranks == nullptr || request.ranks->rank() == 0;
  if (first) {
    check_writable(request.output);
  }
  if (first && !request.preview.empty()) {
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

  const FlowSchedule schedule =
      flow_schedule(enum_value<Solver>(settings.solver, "solver"), settings.steps, settings.shift);
  const auto generator = at::detail::createCPUGenerator(settings.seed);
  const int64_t channels = model.config().dit.in_channels;
  SolverState start;
  start.x =
      torch::randn({1, channels, layout.frames, layout.rows * 2, layout.cols * 2}, generator).to(device);
  if (request.resume && fs::exists(saved)) {
    FilmLatents earlier = read_film_latents(saved);
    MOGA_CHECK(
        config_to_json(earlier.settings) == config_to_json(settings) &&
            script_to_yaml(earlier.script) == script_to_yaml(film.script),
        "{} was made with another script, seed, model or settings; generate without --resume to start anew",
        saved.string());
    film = std::move(earlier);
    start = solver_state(film, device);
    film.solver_memory.clear();
    spdlog::info("continuing after step {} of {}", film.steps_done, settings.steps);
  }
  if (request.ranks) {
    request.ranks->check_equal(
        config_to_json(settings).dump() + script_to_yaml(film.script) + std::to_string(film.steps_done),
        "script, settings and saved latents");
  }
  if (film.steps_done == settings.steps) {
    return film;
  }

  Prompts prompts = first ? encode_prompts(film, model, request.prompt_cache, device) : Prompts();
  torch::Tensor held;  // [1, Z, 1, h, w]
  if (first && first_frame) {
    held = model.load_vae(device)->encode(
        bytes_to_unit(image_to_tensor(*first_frame)).unsqueeze(1).unsqueeze(0).to(device));
  }
  if (request.ranks) {
    prompts = share_prompts(prompts, *request.ranks);
    held = request.ranks->broadcast_any(held, 0, "first frame");
  }
  start.x = with_first_frame(start.x, held);
  release_free_memory();  // of the text encoder
  WanDit dit = model.load_dit(device, &attention);
  std::optional<WanVae> preview_vae;
  if (first && !request.preview.empty()) {
    preview_vae = model.load_vae(device);
  }
  GuidedDenoiser predict(dit, layout,
                         film.script.global.empty() ? GlobalText::kNone : GlobalText::kLastCaption, prompts,
                         settings.guidance, request.passes, held, device, request.ranks);
  film.group_step = request.group_step.value_or(settings.steps * 3 / 4);
  MOGA_CHECK(film.group_step >= 0 && film.group_step < settings.steps,
             "the groups' step must be from 0 to {}, found {}", settings.steps - 1, film.group_step);

  Progress progress("denoise", settings.steps, "step", film.steps_done);
  int64_t step = film.steps_done;
  const Denoiser denoise = [&](const torch::Tensor& x, double timestep) {
    if (!request.groups || step != film.group_step) {
      return predict(x, timestep, nullptr);
    }
    DitTrace trace;
    torch::Tensor v = predict(x, timestep, &trace);
    film.groups_NFYX = group_maps(trace, predict.plan());
    return v;
  };
  const StepCallback after_step = [&](const SolverState& state, const torch::Tensor& clean) {
    const int64_t done = state.done;
    step = done;
    film.steps_done = done;
    film.latent_ZFHW = with_first_frame(state.x, held)[0].to(torch::kCPU);
    MOGA_CHECK(torch::isfinite(film.latent_ZFHW).all().item<bool>(), "the sample is not finite after step {}",
               done);
    if (first && request.checkpoint_every > 0 && done % request.checkpoint_every == 0 &&
        done < settings.steps) {
      FilmLatents unfinished = film;
      unfinished.solver_memory = state.memory();
      write_film_latents(saved, unfinished);
    }
    if (preview_vae && done % request.preview_every == 0) {
      write_preview(request.preview, done, clean, film.script, *preview_vae);
    }
    progress.advance();
  };
  sample_flow(denoise, start, schedule, after_step);
  if (first) {
    write_film_latents(saved, film);
  }
  return film;
}

}  // namespace moga
