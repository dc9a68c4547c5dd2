// From raw videos to multi-shot training films, stage by stage, resumable at any moment.
//
//   OUT/manifests/STAGE.jsonl   a line a video, after each stage
//   OUT/films, OUT/latents      training films, each with its script: folders that `moga train` reads
//   OUT/exports                 the same films for others' programs
//   OUT/report.html, report.json, report/   for people; pictures
//   OUT/work                    finished work of single videos, answers of the captioning model
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "prepare/prepare_config.h"

namespace moga {

struct PrepareRequest {
  std::vector<std::filesystem::path> inputs;  // videos, and folders that are searched for videos
  std::filesystem::path out;
  PrepareConfig config;
  // The first and last stage to run. A run that does not start with probe takes the manifest before `from` as
  // it lies there, whoever wrote it, and needs no inputs.
  std::string from = "probe";
  std::string until = "write";
};

struct PrepareResult {
  int64_t videos = 0;
  int64_t reused = 0;              // pairs of video and stage that were finished already
  int64_t done = 0;                // that this run did
  std::filesystem::path manifest;  // of the last stage
};

// A video's work in a stage is done when its result lies in OUT/work, named by a hash of the stage's version,
// its part of the config and its input; such results are reused, so that a run that was killed goes on, and a
// changed config costs only the stages that it concerns. A second run on the same folder at a time is an
// Error. What cannot be used is dropped with the reason, not an Error.
PrepareResult run_prepare(const PrepareRequest& request);

// Videos in `inputs`, in order, folders sorted. Throws Error if a path does not exist or nothing is found.
std::vector<std::filesystem::path> find_videos(const std::vector<std::filesystem::path>& inputs);

}  // namespace moga
