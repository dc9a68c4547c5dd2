// moga plan: what a film costs before it is made.
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "base/text_util.h"
#include "commands.h"
#include "model/model_folder.h"
#include "pipeline/generate.h"
#include "pipeline/machine_rate.h"
#include "pipeline/planner.h"
#include "script/film_script.h"
#include "two_numbers.h"

namespace moga {
namespace {

struct PlanOptions {
  std::string model = "wan-1.3b";
  std::optional<double> seconds;
  std::optional<int64_t> frames;
  std::optional<double> fps;
  std::string size;
  std::string script;
  std::optional<int64_t> shots;
  std::vector<int64_t> shot_starts;
  std::optional<int64_t> groups;
  std::string windows;
  std::optional<int64_t> temporal_group;
  std::string boundary;
  std::string attention;
  std::string precision;
  int64_t processes = 1;
  std::optional<int64_t> sequence;
  bool json = false;
  bool no_measure = false;
};

void take_script(const PlanOptions& options, PlanRequest& request) {
  const FilmScript script = load_script(options.script, script_defaults(request.model));
  request.frames = script.total_frames();
  request.shot_starts = script.shot_starts();
  request.film_wide_text = !script.global.empty();
  if (script.fps > 0) {
    request.fps = script.fps;
  }
  if (script.width > 0) {
    request.width = script.width;
    request.height = script.height;
  }
  SamplingDefaults& sampling = request.model.sampling;
  sampling.solver = script.sampling.solver.value_or(sampling.solver);
  sampling.steps = script.sampling.steps.value_or(sampling.steps);
  sampling.guidance = script.sampling.guidance.value_or(sampling.guidance);
  sampling.shift = script.sampling.shift.value_or(sampling.shift);
}

void take_length(const PlanOptions& options, PlanRequest& request) {
  MOGA_CHECK(options.seconds || options.frames,
             "plan: say how long the film is, with --seconds, --frames or --script");
  if (options.seconds) {
    request.frames = frames_for_seconds(*options.seconds, request.fps);
    return;
  }
  request.frames = snap_frames(*options.frames);
  if (request.frames != *options.frames) {
    info("{} frames are no 4n + 1 and cannot be coded; planned {} frames", *options.frames, request.frames);
  }
}

PlanRequest make_request(const PlanOptions& options) {
  PlanRequest request;
  request.model = find_model_config(options.model);
  request.width = request.model.width;
  request.height = request.model.height;
  request.fps = request.model.fps;
  // The toy model runs in float32 on the CPU, the large ones in bfloat16 on a GPU.
  request.precision = default_precision(request.model.dit);
  if (!options.precision.empty()) {
    request.precision = enum_value<Precision>(options.precision, "--precision");
  }
  request.processes = options.processes;
  request.sequence = options.sequence.value_or(options.processes);
  MogaConfig& attention = request.model.dit.attention;
  if (!options.attention.empty()) {
    attention.kind = enum_value<AttentionKind>(options.attention, "--attention");
  }
  attention.groups = options.groups.value_or(attention.groups);
  if (!options.windows.empty()) {
    std::tie(attention.windows.rows, attention.windows.cols) =
        two_numbers(options.windows, "--windows", "2x2");
  }
  attention.windows.temporal_group = options.temporal_group.value_or(attention.windows.temporal_group);
  if (!options.boundary.empty()) {
    attention.windows.boundary = enum_value<Boundary>(options.boundary, "--boundary");
  }
  if (!options.script.empty()) {
    take_script(options, request);
    return request;
  }
  request.fps = options.fps.value_or(request.fps);
  if (!options.size.empty()) {
    std::tie(request.width, request.height) = two_numbers(options.size, "--size", "832x480");
  }
  take_length(options, request);
  if (!options.shot_starts.empty()) {
    request.shot_starts = options.shot_starts;
  } else if (options.shots) {
    request.shot_starts = even_shots((request.frames - 1) / 4 + 1, *options.shots);
  }
  return request;
}

void plan(const PlanOptions& options) {
  const FilmPlan result = plan_film(make_request(options));
  std::optional<double> rate;
  if (!options.no_measure) {
    rate = measured_sgemm_gflops() * 1e9;
  }
  if (options.json) {
    fmt::print("{}\n", plan_to_json(result, rate).dump(2));
  } else {
    fmt::print("{}", plan_to_table(result, rate));
  }
}

}  // namespace

void add_plan(CLI::App& app) {
  auto options = std::make_shared<PlanOptions>();
  PlanOptions& o = *options;
  CLI::App* command = app.add_subcommand("plan", "Tokens, sparsity, operations, memory and time of a film");
  command
      ->add_option("-m,--model", o.model,
                   "wan-1.3b, wan-14b, toy, or the path of a model (docs/models.md) or a moga.json")
      ->capture_default_str();
  auto* script =
      command->add_option("--script", o.script, "Plan this film script: its length, cuts, size and rate");
  auto* seconds = command->add_option(
      "--seconds", o.seconds, "Length; the film takes the most frames of the form 4n + 1 that fit into it");
  auto* frames = command->add_option("--frames", o.frames, "Length in frames; goes to the nearest 4n + 1");
  auto* fps = command->add_option("--fps", o.fps, "Frames a second (default: the model's)");
  auto* size = command->add_option("--size", o.size,
                                   "Picture size WIDTHxHEIGHT, divisible by 16 (default: the model's)");
  auto* shots =
      command->add_option("--shots", o.shots, "Number of shots, of nearly equal length (default: 1)");
  auto* starts = command
                     ->add_option("--shot-starts", o.shot_starts,
                                  "First latent frame of each shot, starting with 0: 0,12,25 (latent frame n "
                                  "begins at frame 4n - 3)")
                     ->delimiter(',');
  command->add_option("--groups", o.groups,
                      "M, the routed groups of a layer: more are sparser (default: the model's)");
  command->add_option("--windows", o.windows,
                      "Windows of a latent frame, ROWSxCOLUMNS (default: the model's)");
  command->add_option(
      "--temporal-group", o.temporal_group,
      "Latent frames that attend to each other inside a window, at most (default: the model's)");
  command->add_option("--boundary", o.boundary, "Keys beyond a temporal group's ends: none or neighbours");
  command->add_option("--attention", o.attention,
                      "moga, full, static (windows and frames) or dynamic (routed only)");
  command->add_option("--precision", o.precision,
                      "Of weights and activations: bf16 or f32 (default: by model size)");
  command
      ->add_option("--processes", o.processes, "Plan for so many processes: what each holds, does and sends")
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--sequence-parallel", o.sequence,
                      "Processes that share one film (default: all of them)");
  command->add_flag("--json", o.json, "Print the plan as JSON");
  command->add_flag("--no-measure", o.no_measure, "Do not measure this machine; no time estimates");
  seconds->excludes(frames);
  shots->excludes(starts);
  for (auto* option : {seconds, frames, fps, size, shots, starts}) {
    script->excludes(option);
  }
  command->callback([options] { plan(*options); });
}

}  // namespace moga
