// moga generate and moga decode: a film from a script, and a film from latents that a run left behind.
#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <memory>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/text_util.h"
#include "commands.h"
#include "device.h"
#include "model/prompt_embeddings.h"
#include "model_option.h"
#include "pipeline/decode.h"
#include "pipeline/generate.h"
#include "processes.h"

namespace moga {

namespace {

struct Options {
  std::string script;
  GenerateRequest request;
  ModelOptions model;
  std::string output = "film.mp4";
  std::string preview;
  std::string attention;
  std::string passes = enum_name(GuidancePasses::kSeparate);
  std::string prompt_cache = default_prompt_cache().string();
  std::string device = "auto";
  ProcessOptions processes;
  std::optional<int64_t> group_layer;
  std::optional<int64_t> vae_tile;
  bool keep_latents = false;
};

void report(const DecodedFilm& film, double seconds) {
  fmt::print("{}: {} frames, {}\n", film.film.string(), film.frames, human_seconds(seconds));
  fmt::print("{}: contact sheet\n", film.sheet.string());
  if (!film.groups_film.empty()) {
    fmt::print("{}, {}: the routers' groups\n", film.groups_film.string(), film.groups_sheet.string());
  }
}

void generate(const Options& options) {
  if (options.processes.ran_elsewhere()) {
    return;
  }
  const auto start = std::chrono::steady_clock::now();
  GenerateRequest request = options.request;
  request.model = options.model.source();
  request.output = options.output;
  request.preview = options.preview;
  request.prompt_cache = options.prompt_cache;
  request.passes = enum_value<GuidancePasses>(options.passes, "--cfg");
  if (!options.attention.empty()) {
    request.attention = enum_value<AttentionKind>(options.attention, "--attention");
  }
  MOGA_CHECK(request.output.extension() == ".mp4", "the film's name must end in .mp4, found '{}'",
             options.output);
  torch::Device device = choose_device(options.device);
  request.ranks = options.processes.join(device);
  request.script = load_script(options.script, script_defaults(ModelFolder(request.model).config()));
  check_writable(request.output);

  const FilmLatents latents = sample_film(request, device);
  report_waiting(request.ranks,
                 std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  if (!is_first(request.ranks)) {
    return;
  }
  DecodeRequest decode;
  decode.model = request.model;
  decode.output = request.output;
  decode.groups = request.groups;
  decode.group_layer = options.group_layer;
  decode.vae_tile = options.vae_tile;
  const DecodedFilm film = decode_film(latents, decode, device);
  if (!options.keep_latents) {
    std::filesystem::remove(latents_path(request.output));
  }
  report(film, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}

struct DecodeOptions {
  std::string latents;
  std::string model;
  std::string vae;
  std::string output;
  std::string device = "auto";
  bool groups = false;
  std::optional<int64_t> group_layer;
  std::optional<int64_t> vae_tile;
};

constexpr const char* kTilingHelp =
    "Decode in overlapping tiles of so many pixels a side (256 is a good size): less memory, faint seams";

void decode(const DecodeOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const FilmLatents latents = read_film_latents(options.latents);
  DecodeRequest request;
  request.model = options.model.empty() ? latents.settings.model_folder : options.model;
  request.model.vae = options.vae;
  request.output = options.output;
  request.groups = options.groups;
  request.group_layer = options.group_layer;
  request.vae_tile = options.vae_tile;
  report(decode_film(latents, request, choose_device(options.device)),
         std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}

}  // namespace

void add_generate(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("generate", "Make a film from a script");
  command->add_option("SCRIPT", options->script, "Film script (YAML; see docs/script.md and `moga lint`)")
      ->required();
  command->add_option("-o,--output", options->output, "The film; a contact sheet (.png) is written beside it")
      ->capture_default_str();
  options->model.add_to(*command);
  command->add_option("--seed", options->request.seed, "Seed of the noise (default: the script's)");
  command->add_option("--solver", options->request.solver,
                      "unipc (Wan's own), dpmpp, euler, unipc_diffusers or euler_diffusers (default: the "
                      "script's or the model's)");
  command->add_option("--steps", options->request.steps,
                      "Denoising steps (default: the script's or the model's)");
  command->add_option("--guidance", options->request.guidance,
                      "How strongly the film follows its text; 1 switches guidance off and halves the time");
  command->add_option("--shift", options->request.shift, "Flow shift: more of the steps at high noise");
  command
      ->add_option(
          "--cfg", options->passes,
          "The passes with and without text: separate, or batched (one pass of two, twice the memory)")
      ->capture_default_str();
  command
      ->add_option("--prompt-cache", options->prompt_cache,
                   "Folder where text embeddings are kept for the next film ('' keeps none)")
      ->capture_default_str();
  command->add_option("--attention", options->attention,
                      "Visual attention instead of the model's: moga, full, static or dynamic");
  command->add_flag("--groups", options->request.groups,
                    "Also write the film with its tokens coloured by the router's groups (video and PNG)");
  command->add_option("--group-layer", options->group_layer,
                      "Layer of the group pictures, from 0 (default: the middle)");
  command->add_option("--group-step", options->request.group_step,
                      "Denoising step of the group pictures, from 0 (default: three quarters in)");
  command->add_option("--preview", options->preview, "Folder for a low-cost picture every few steps");
  command->add_option("--preview-every", options->request.preview_every, "Steps between previews")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--checkpoint", options->request.checkpoint_every,
                   "Save the unfinished latents every so many steps, for --resume (0: never)")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  command->add_flag("--resume", options->request.resume,
                    "Go on from latents that an interrupted run left beside the output");
  command->add_option("--vae-tiling", options->vae_tile, kTilingHelp);
  command->add_flag("--keep-latents", options->keep_latents, "Keep the latents (for `moga decode`)");
  options->processes.add_to(*command);
  command->add_option("--device", options->device, "auto, cpu or cuda")->capture_default_str();
  command->callback([options] { generate(*options); });
}

void add_decode(CLI::App& app) {
  auto options = std::make_shared<DecodeOptions>();
  CLI::App* command =
      app.add_subcommand("decode", "Finish a film from latents that `moga generate` left behind");
  command->add_option("LATENTS", options->latents, "FILM.latents.safetensors")->required();
  command->add_option("-o,--output", options->output, "The film")->required();
  command->add_option("--model", options->model, "Model (default: the one that made the latents)");
  command->add_option("--vae", options->vae, "VAE weights, if they are not with the model");
  command->add_flag("--groups", options->groups,
                    "Also write the group pictures, if the latents carry groups");
  command->add_option("--group-layer", options->group_layer, "Layer of the group pictures, from 0");
  command->add_option("--vae-tiling", options->vae_tile, kTilingHelp);
  command->add_option("--device", options->device, "auto, cpu or cuda")->capture_default_str();
  command->callback([options] { decode(*options); });
}

}  // namespace moga
