// moga convert: a model with full attention becomes one with groups, or files that other programs read.
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <string>

#include "base/error.h"
#include "base/log.h"
#include "commands.h"
#include "data/film_source.h"
#include "device.h"
#include "model_option.h"
#include "pipeline/convert.h"
#include "pipeline/planner.h"
#include "two_numbers.h"

namespace moga {
namespace {

struct ConvertOptions {
  std::string model;
  std::string vae;
  std::string text_encoder;
  std::string tokenizer;
  std::string output;
  std::string to;
  int64_t groups = 5;
  std::string windows = "2x2";
  std::optional<int64_t> temporal_group;
  std::string router = "random";
  std::string calibration;
  std::string size;
  int64_t frames = 17;
  int64_t clips = 4;
  uint64_t seed = 0;
  std::string device = "auto";
  bool json = false;
};

// Toy films with a cut in each, or the first frames of a folder's clips.
std::vector<CalibrationClip> load_clips(const ConvertOptions& options, const ModelConfig& model) {
  auto [width, height] = std::pair(model.width, model.height);
  if (!options.size.empty()) {
    std::tie(width, height) = two_numbers(options.size, "--size", "256x160");
  }
  MOGA_CHECK(width % 16 == 0 && height % 16 == 0, "--size: expected multiples of 16, found {}x{}", width,
             height);
  DataConfig data;
  data.max_frames = snap_frames(options.frames);
  if (options.calibration == "toy") {
    data.films = options.clips;
    data.seed = options.seed + 1;
    data.toy.min_frames = data.toy.max_frames = data.max_frames;
    data.toy.min_shots = data.toy.max_shots = data.max_frames >= 17 ? 2 : 1;
    data.toy.min_shot_frames = std::min<int64_t>(data.toy.min_shot_frames, 8);
  } else {
    data.kind = DataKind::kFolder;
    data.folder = options.calibration;
  }
  const auto films = open_films(data, width, height);
  std::vector<CalibrationClip> clips;
  for (int64_t i = 0; i < std::min(options.clips, films->size()); ++i) {
    TrainingFilm film = films->film(i);
    clips.push_back({std::move(film.video_TCHW), std::move(film.shot_starts), std::move(film.captions)});
  }
  MOGA_CHECK(!clips.empty(), "{} holds no clips", options.calibration);
  return clips;
}

std::string table_of(const ConvertReport& report) {
  std::string text = "Distance to full attention, |moga - full| / |full|, on the last calibration clip:\n";
  text += fmt::format("{:>24}{:>10}", "", "random");
  text += report.kmeans ? fmt::format("{:>10}\n", "kmeans") : "\n";
  const auto row = [&](const std::string& name, double random, std::optional<double> kmeans) {
    text += fmt::format("{:>24}{:>10.4f}", name, random);
    text += kmeans ? fmt::format("{:>10.4f}\n", *kmeans) : "\n";
  };
  const auto of = [&](double StartDistance::*field) {
    return report.kmeans ? std::optional((*report.kmeans).*field) : std::nullopt;
  };
  for (size_t i = 0; i < report.random->blocks.size(); ++i) {
    row(fmt::format("block {}", i), report.random->blocks[i],
        report.kmeans ? std::optional(report.kmeans->blocks[i]) : std::nullopt);
  }
  row("final prediction", report.random->prediction, of(&StartDistance::prediction));
  row("mean top probability", report.random->top_probability, of(&StartDistance::top_probability));
  row("largest group", report.random->largest_group, of(&StartDistance::largest_group));
  return text;
}

void convert(const ConvertOptions& options) {
  ModelSource model(options.model);
  model.vae = options.vae;
  model.text_encoder = options.text_encoder;
  model.tokenizer = options.tokenizer;
  if (options.to == "wan" || options.to == "diffusers") {
    convert_names(model, options.output, enum_value<Naming>(options.to, "--to"));
    fmt::print("{}: written under {} names\n", options.output, options.to);
    return;
  }
  MOGA_CHECK(options.to.empty() || options.to == "moga", "--to: expected moga, wan or diffusers, found '{}'",
             options.to);
  ConvertRequest request;
  request.model = model;
  request.output = options.output;
  request.groups = options.groups;
  std::tie(request.windows.rows, request.windows.cols) = two_numbers(options.windows, "--windows", "2x2");
  request.windows.temporal_group = options.temporal_group.value_or(request.windows.temporal_group);
  request.router = enum_value<RouterStart>(options.router, "--router");
  request.seed = options.seed;
  std::string calibration = options.calibration;
  ConvertOptions with = options;
  if (request.router == RouterStart::kKmeans && calibration.empty()) {
    with.calibration = "toy";
    info("no --calibration given: routers start from toy films");
  }
  if (!with.calibration.empty()) {
    request.clips = load_clips(with, ModelFolder(model).config());
  }
  const ConvertReport report = convert_to_moga(request, choose_device(options.device));
  if (options.json) {
    fmt::print("{}\n", convert_report_to_json(report).dump(2));
    return;
  }
  if (report.random) {
    fmt::print("{}", table_of(report));
  }
  fmt::print("{}: {} groups, windows {}x{}, {} routers\n", options.output, request.groups,
             request.windows.rows, request.windows.cols, options.router);
}

}  // namespace

void add_convert(CLI::App& app) {
  auto options = std::make_shared<ConvertOptions>();
  ConvertOptions& o = *options;
  CLI::App* command = app.add_subcommand(
      "convert",
      "Give a model with full attention groups (one router a block; the other weights stay as they are),\n"
      "or write a model under the names that other programs read.");
  command
      ->add_option("MODEL", o.model,
                   "Model folder or transformer's file, as `moga generate --model` takes it")
      ->required();
  command->add_option("-o,--output", o.output, "Folder to write; replaced if it exists")->required();
  command->add_option("--to", o.to, "moga (default), wan or diffusers: the last two leave routers out");
  command->add_option("--groups", o.groups, "M, the routed groups of a block")->capture_default_str();
  command->add_option("--windows", o.windows, "Windows of a latent frame, ROWSxCOLUMNS")
      ->capture_default_str();
  command->add_option("--temporal-group", o.temporal_group,
                      "Latent frames that attend to each other inside a window, at most (default: 10)");
  command
      ->add_option(
          "--router", o.router,
          "random, or kmeans: start at the centroids of what the routers see in calibration clips, so that "
          "they are sure of their groups from the start")
      ->capture_default_str();
  command->add_option(
      "--calibration", o.calibration,
      "toy (drawn films), or a folder of clips with captions beside them; with it the distance to "
      "full attention is measured on the last clip");
  command->add_option("--size", o.size, "Size of the clips, WIDTHxHEIGHT (default: the model's)");
  command->add_option("--frames", o.frames, "Frames of a clip, at most")->capture_default_str();
  command->add_option("--clips", o.clips, "Clips, at most")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_option("--seed", o.seed, "Seed of noise, routers and toy films")->capture_default_str();
  command->add_option("--vae", o.vae, "VAE weights, if they are not with the model");
  command->add_option("--text-encoder", o.text_encoder,
                      "Text encoder weights, if they are not with the model");
  command->add_option("--tokenizer", o.tokenizer, "Sentencepiece model, if it is not with the model");
  command->add_option("--device", o.device, "auto, cpu or cuda")->capture_default_str();
  command->add_flag("--json", o.json, "Print the distances as JSON");
  command->callback([options] { convert(*options); });
}

}  // namespace moga
