// moga reconstruct and moga groups: real clips through the VAE and the routers.
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "commands.h"
#include "device.h"
#include "model_option.h"
#include "pipeline/clips.h"

namespace moga {

namespace {

struct Size {
  int64_t width = 0;
  int64_t height = 0;
};

Size parse_size(const std::string& text) {
  Size size;
  if (!text.empty()) {
    char rest = 0;
    MOGA_CHECK(std::sscanf(text.c_str(), "%ldx%ld%c", &size.width, &size.height, &rest) == 2 &&
                   size.width > 0 && size.height > 0,
               "--size: expected WIDTHxHEIGHT, found '{}'", text);
  }
  return size;
}

struct ReconstructOptions {
  ReconstructRequest request;
  std::string clip;
  std::string model = default_model();
  std::string output;
  std::string size;
  std::string device = "auto";
  bool json = false;
};

void reconstruct(const ReconstructOptions& options) {
  ReconstructRequest request = options.request;
  request.clip = options.clip;
  request.model = options.model;
  request.output = options.output;
  const Size size = parse_size(options.size);
  request.width = size.width;
  request.height = size.height;
  const ReconstructResult result = reconstruct_clip(request, choose_device(options.device));
  if (options.json) {
    const nlohmann::ordered_json line = {{"frames", result.frames},
                                         {"width", result.width},
                                         {"height", result.height},
                                         {"psnr_db", result.psnr_db}};
    fmt::print("{}\n", line.dump());
  } else {
    fmt::print("{}: {} frames of {}x{}, PSNR {:.2f} dB\n", options.clip, result.frames, result.width,
               result.height, result.psnr_db);
  }
}

struct GroupsOptions {
  ClipGroupsRequest request;
  std::string clip;
  std::string model = default_model();
  std::string output = "groups.mp4";
  std::string size;
  std::string device = "auto";
};

void groups(const GroupsOptions& options) {
  ClipGroupsRequest request = options.request;
  request.clip = options.clip;
  request.model = options.model;
  request.output = options.output;
  const Size size = parse_size(options.size);
  request.width = size.width;
  request.height = size.height;
  const ClipGroupsResult result = draw_clip_groups(request, choose_device(options.device));
  fmt::print("{}: {} frames; share of tokens a group:", options.output, result.frames);
  for (const double share : result.occupancy) {
    fmt::print(" {:.3f}", share);
  }
  fmt::print("\n");
}

}  // namespace

void add_reconstruct(CLI::App& app) {
  auto options = std::make_shared<ReconstructOptions>();
  CLI::App* command =
      app.add_subcommand("reconstruct", "Encode and decode a clip through the VAE and report the PSNR");
  command->add_option("CLIP", options->clip, "Any video that FFmpeg reads")->required();
  command->add_option("-o,--output", options->output, "Write the decoded clip here");
  command->add_option("--model", options->model, kModelHelp);
  command->add_option("--size", options->size, "Scale to WIDTHxHEIGHT first (default: the clip's own size)");
  command->add_option("--frames", options->request.max_frames, "Frames at most (0: all)")
      ->capture_default_str();
  command->add_option("--device", options->device, "auto, cpu or cuda")->capture_default_str();
  command->add_flag("--json", options->json, "Print the result as JSON");
  command->callback([options] { reconstruct(*options); });
}

void add_groups(CLI::App& app) {
  auto options = std::make_shared<GroupsOptions>();
  CLI::App* command =
      app.add_subcommand("groups", "Colour a clip's frames by the groups that the router makes of them");
  command->add_option("CLIP", options->clip, "Any video that FFmpeg reads")->required();
  command->add_option("-o,--output", options->output, "The coloured clip; a PNG sheet is written beside it")
      ->capture_default_str();
  command->add_option("--model", options->model, kModelHelp);
  command->add_option("--caption", options->request.caption, "What the clip shows (default: nothing)");
  command->add_option("--layer", options->request.layer,
                      "Layer whose router is asked, from 0 (default: the middle)");
  command->add_option("--noise", options->request.noise_level, "Noise level from 0 to 1, as during denoising")
      ->capture_default_str();
  command->add_option("--size", options->size, "Scale to WIDTHxHEIGHT (default: the model's size)");
  command->add_option("--frames", options->request.max_frames, "Frames at most")->capture_default_str();
  command->add_option("--device", options->device, "auto, cpu or cuda")->capture_default_str();
  command->callback([options] { groups(*options); });
}

}  // namespace moga
