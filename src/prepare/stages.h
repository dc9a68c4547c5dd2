// The stages of `moga prepare`. Each is a function from a video's record to the same record with more in it;
// what it writes beside the manifest (pictures, films) depends on the record and the config alone.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "prepare/chat_client.h"
#include "prepare/manifest.h"
#include "prepare/prepare_config.h"
#include "prepare/scores.h"
#include "prepare/sidecar.h"

namespace moga {

class LatentWriter;

// What all videos share: networks, the endpoint, the caption table. Each is made when it is first asked for;
// thread-safe.
class StageServices {
 public:
  StageServices(const PrepareConfig& config, std::filesystem::path out);
  ~StageServices();
  LearnedScorers& learned();
  ChatClient& chat();
  const std::vector<SidecarCaption>& caption_table();
  LatentWriter& latents();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct StageContext {
  const PrepareConfig& config;
  std::filesystem::path out;
  StageServices& services;
  int decoder_threads = 0;              // 0: one a core
  std::function<void(double)> advance;  // called with seconds of video that are done
  bool again = false;  // set by a stage whose result should be tried for anew in the next run
};

struct Stage {
  const char* name;
  const char* summary;
  int64_t version;  // raised when the stage's results change for the same input
  // The part of the config that its result depends on.
  nlohmann::ordered_json (*settings)(const PrepareConfig&);
  // Videos that were dropped before are not shown to it. Throws Error if the video cannot be used (it is then
  // dropped with the error as the reason) and StopRun if nothing can go on.
  void (*run)(VideoRecord&, StageContext&);
  // Files, relative to the output folder, that the record promises on behalf of this stage.
  std::vector<std::string> (*files)(const VideoRecord&);
};

// In their order: probe, score, filter, split, shot-score, text, crop, caption, merge, write.
const std::vector<Stage>& stages();
// Index into stages(); Error with the nearest name for others.
size_t stage_index(const std::string& name);

void run_probe(VideoRecord& video, StageContext& context);
void run_score(VideoRecord& video, StageContext& context);
void run_filter(VideoRecord& video, StageContext& context);
void run_split(VideoRecord& video, StageContext& context);
void run_shot_score(VideoRecord& video, StageContext& context);
void run_text(VideoRecord& video, StageContext& context);
void run_crop(VideoRecord& video, StageContext& context);
void run_caption(VideoRecord& video, StageContext& context);
void run_merge(VideoRecord& video, StageContext& context);
void run_write(VideoRecord& video, StageContext& context);

// Films of at least min_shots neighbouring shots that are not dropped, of one scene and at most max_seconds,
// such that as much footage as possible is used; without captions. Pure.
std::vector<FilmRecord> plan_films(const VideoRecord& video, const FilmConfig& config);

// Writes an output of a stage; a failure stops the run (StopRun), as it is not the video's fault.
void write_output(const std::filesystem::path& file, std::string_view bytes);
// JPEG of RGB pictures of equal height side by side.
std::string jpeg_strip(const std::vector<cv::Mat>& pictures);

}  // namespace moga
