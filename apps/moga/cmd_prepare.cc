// moga prepare: raw videos to multi-shot training films.
#include <fmt/format.h>

#include <cstdio>
#include <memory>

#include "base/error.h"
#include "base/log.h"
#include "commands.h"
#include "prepare/prepare.h"
#include "prepare/report.h"
#include "prepare/stages.h"

namespace moga {

namespace {

struct Options {
  std::vector<std::string> inputs;
  std::string out;
  std::string config;
  std::string from;
  std::string until;
  std::string stage;
  int64_t jobs = 0;
  bool explain = false;
  bool schema = false;
  bool json = false;
};

std::string stages_help() {
  std::string out;
  for (const Stage& stage : stages()) {
    out += fmt::format("  {:<11} {}\n", stage.name, stage.summary);
  }
  return out;
}

void run(const Options& options) {
  if (options.explain) {
    fmt::print("Keys of a config (YAML) for moga prepare, with their defaults:\n\n{}",
               explain_config<PrepareConfig>());
    return;
  }
  if (options.schema) {
    fmt::print("Keys of a line of a manifest (JSON), version {}:\n\n{}", kManifestVersion, manifest_schema());
    return;
  }
  MOGA_CHECK(!options.out.empty(), "give a folder for the results with -o");
  MOGA_CHECK(options.stage.empty() || (options.from.empty() && options.until.empty()),
             "--stage is --from and --until in one; give either");
  PrepareRequest request;
  request.inputs.assign(options.inputs.begin(), options.inputs.end());
  request.out = options.out;
  if (!options.config.empty()) {
    request.config = load_config<PrepareConfig>(options.config);
  }
  if (options.jobs > 0) {
    request.config.jobs = options.jobs;
  }
  const auto chosen = [&](const std::string& own, const std::string& otherwise) {
    return !options.stage.empty() ? options.stage : own.empty() ? otherwise : own;
  };
  request.from = chosen(options.from, request.from);
  request.until = chosen(options.until, request.until);
  MOGA_CHECK(request.from == "probe" || request.inputs.empty(),
             "the stage {} takes the videos of the manifest before it; give no videos, or start with probe",
             request.from);
  const PrepareResult result = run_prepare(request);
  const PrepareSummary summary = summarise(result.manifest);
  if (options.json) {
    fmt::print("{}\n", summary_to_json(summary).dump());
    return;
  }
  fmt::print("{}", describe_summary(summary));
  spdlog::info("{} steps done, {} reused; manifest {}, report {}", result.done, result.reused,
               result.manifest.string(), (request.out / "report.html").string());
}

}  // namespace

void add_prepare(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "prepare", "Make multi-shot training films of long raw videos; interrupted runs continue");
  command->footer(
      "Stages:\n" + stages_help() +
      "\nEach stage reads OUT/manifests/BEFORE.jsonl and writes OUT/manifests/STAGE.jsonl. Example:\n"
      "  moga prepare raw/ -o out/films --config prepare.yaml");
  command->add_option("IN", options->inputs, "Videos, or folders that are searched for videos");
  command->add_option("-o,--output", options->out, "Folder for films, manifests and the report");
  command->add_option("--config", options->config, "YAML config (see --explain)");
  command->add_option("--from", options->from,
                      "First stage; it takes the manifest before it as it lies there");
  command->add_option("--until", options->until, "Last stage");
  command->add_option("--stage", options->stage, "Only this stage");
  command->add_option("--jobs", options->jobs, "Videos at a time (default: the config's, or one a core)");
  command->add_flag("--explain", options->explain, "Print every key of the config, its default and meaning");
  command->add_flag("--schema", options->schema, "Print every key of a manifest's lines and its meaning");
  command->add_flag("--json", options->json, "Print the summary as JSON");
  command->callback([options] { run(*options); });
}

}  // namespace moga
