// moga shots: where a film changes from one shot to the next.
#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "base/progress.h"
#include "commands.h"
#include "data/shot_report.h"
#include "media/video.h"

namespace moga {
namespace {

struct ShotsRequest {
  std::string video;
  std::string sheet;
  ShotSettings settings;
  bool json = false;
  bool edl = false;
};

void shots(const ShotsRequest& request) {
  VideoReader reader(request.video, cv::Size(kShotFrameWidth, kShotFrameHeight));
  const double fps = reader.info().fps;
  Progress progress("shots", reader.info().frames, "frame");
  int64_t frames = 0;
  const std::vector<ShotBoundary> boundaries = detect_shots(reader, request.settings, [&] {
    ++frames;
    progress.advance();
  });
  progress.finish();
  std::string text;
  if (request.json) {
    auto list = nlohmann::ordered_json::array();
    for (const ShotBoundary& boundary : boundaries) {
      list.push_back(boundary_to_json(boundary, fps));
    }
    text = nlohmann::ordered_json{{"boundaries", list}}.dump() + "\n";
  } else if (request.edl) {
    text = shots_edl(boundaries, frames, fps, std::filesystem::path(request.video).filename().string());
  } else {
    text = shots_table(boundaries, frames, fps);
  }
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
  if (!request.sheet.empty()) {
    write_shot_sheet(request.sheet, request.video, boundaries, frames);
  }
}

}  // namespace

void add_shots(CLI::App& app) {
  auto request = std::make_shared<ShotsRequest>();
  CLI::App* command = app.add_subcommand(
      "shots",
      "Find where a film changes from one shot to the next: cuts, dissolves, fades and wipes.\n"
      "A boundary is clean if both detectors (sudden changes of content; transitions of any length) see it,\n"
      "and overlapped if frames around it belong to two shots. docs/data.md tells how well it works.");
  command->add_option("VIDEO", request->video, "Any video that FFmpeg reads")->required();
  CLI::Option* json = command->add_flag(
      "--json", request->json, "Print JSON; \"frame\" is the first frame of the new shot, counted from 0");
  command->add_flag("--edl", request->edl, "Print an edit list (CMX 3600) for editing programs")
      ->excludes(json);
  command->add_option("--sheet", request->sheet,
                      "Write a PNG with the first, middle and last frame of every shot here");
  command->add_option(
      "--network", request->settings.network,
      "ONNX file of a learned shot detector (TransNetV2, AutoShot), used instead of the built-in\n"
      "detector of transitions");
  command->callback([request] { shots(*request); });
}

}  // namespace moga
