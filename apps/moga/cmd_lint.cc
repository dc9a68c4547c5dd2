// moga lint: everything that is wrong with film scripts, and the shots as they will be made.
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/atomic_file.h"
#include "base/error.h"
#include "commands.h"
#include "model/model_folder.h"
#include "pipeline/generate.h"
#include "script/film_script.h"

namespace moga {
namespace {

struct LintRequest {
  std::vector<std::string> scripts;
  std::string model;
  bool json = false;
};

// Where a script names neither size nor rate: the model's if one is given; else what small and large films
// use.
ScriptDefaults defaults_for(const LintRequest& request) {
  return script_defaults(request.model.empty() ? ModelConfig() : find_model_config(request.model));
}

int count(const LintResult& result, Severity severity) {
  int sum = 0;
  for (const Finding& finding : result.findings) {
    sum += finding.severity == severity ? 1 : 0;
  }
  return sum;
}

std::string plural(int number, const char* noun) {
  return fmt::format("{} {}{}", number, noun, number == 1 ? "" : "s");
}

void print_shots(const FilmScript& script, double fps) {
  fmt::print("  shot  first frame  frames  latent frames  starts at  lasts      prompt\n");
  for (size_t i = 0; i < script.shots.size(); ++i) {
    const Shot& shot = script.shots[i];
    std::string prompt = shot.text;
    for (char& c : prompt) {
      c = c == '\n' || c == '\r' || c == '\t' ? ' ' : c;
    }
    constexpr size_t kPromptBytes = 48;
    if (prompt.size() > kPromptBytes) {
      size_t end = kPromptBytes;
      while ((static_cast<unsigned char>(prompt[end]) & 0xC0U) == 0x80U) {
        --end;
      }
      prompt = prompt.substr(0, end) + "...";
    }
    const int64_t latents = (shot.frame_count + 3) / 4;
    fmt::print("  {:>4}  {:>11}  {:>6}  {:>13}  {:>7.3f} s  {:>6.3f} s  {}\n", i + 1, shot.first_frame,
               shot.frame_count, latents, static_cast<double>(shot.first_frame) / fps,
               static_cast<double>(shot.frame_count) / fps, prompt);
  }
  fmt::print("  {}, {} frames, {} latent frames, {:.3f} s at {} fps\n",
             plural(static_cast<int>(script.shots.size()), "shot"), script.total_frames(),
             script.latent_frames(), static_cast<double>(script.total_frames()) / fps, fps);
}

nlohmann::ordered_json to_json(const std::string& file, const LintResult& result, double fps) {
  nlohmann::ordered_json json = {
      {"file", file}, {"ok", result.ok()}, {"findings", nlohmann::ordered_json::array()}};
  for (const Finding& finding : result.findings) {
    json["findings"].push_back({{"severity", severity_name(finding.severity)},
                                {"line", finding.line},
                                {"column", finding.column},
                                {"message", finding.message}});
  }
  if (result.ok()) {
    json["fps"] = fps;
    json["frames"] = result.script->total_frames();
    json["latent_frames"] = result.script->latent_frames();
    json["shots"] = nlohmann::ordered_json::array();
    for (const Shot& shot : result.script->shots) {
      json["shots"].push_back({{"text", shot.text},
                               {"first_frame", shot.first_frame},
                               {"frames", shot.frame_count},
                               {"start_seconds", static_cast<double>(shot.first_frame) / fps},
                               {"seconds", static_cast<double>(shot.frame_count) / fps}});
    }
  }
  return json;
}

void lint(const LintRequest& request) {
  ScriptDefaults defaults = defaults_for(request);
  nlohmann::ordered_json report = nlohmann::ordered_json::array();
  int errors = 0;
  for (const std::string& file : request.scripts) {
    LintResult result;
    try {
      defaults.folder = std::filesystem::absolute(file).parent_path();
      result = lint_script(read_file(file, kMaxScriptBytes), defaults);
    } catch (const Error& error) {
      // A file that cannot be read is a finding too, so that the other files are still checked.
      result.findings.push_back({Severity::kError, 0, 0, error.what()});
    }
    errors += count(result, Severity::kError);
    const double fps = result.ok() && result.script->fps > 0 ? result.script->fps : defaults.fps;
    if (request.json) {
      report.push_back(to_json(file, result, fps));
      continue;
    }
    for (const Finding& finding : result.findings) {
      const std::string place = finding.line > 0 ? fmt::format(":{}:{}", finding.line, finding.column) : "";
      fmt::print("{}{}: {}: {}\n", file, place, severity_name(finding.severity), finding.message);
    }
    fmt::print("{}: {}, {}\n", file, plural(count(result, Severity::kError), "error"),
               plural(count(result, Severity::kWarning), "warning"));
    if (result.ok()) {
      print_shots(*result.script, fps);
    }
  }
  if (request.json) {
    fmt::print("{}\n", report.dump(2));
  }
  std::fflush(stdout);
  MOGA_CHECK(errors == 0, "{} in the film scripts", plural(errors, "error"));
}

}  // namespace

void add_lint(CLI::App& app) {
  auto request = std::make_shared<LintRequest>();
  CLI::App* command =
      app.add_subcommand("lint", "Check film scripts and show their shots as they will be cut");
  command
      ->add_option("SCRIPT", request->scripts,
                   "Film scripts, YAML or JSON (docs/script.md describes the format)")
      ->required();
  command->add_option(
      "-m,--model", request->model,
      "Model whose frame rate and text length apply where the script names none: wan-1.3b, wan-14b, "
      "toy or a path (default: 16 fps, 512 text tokens a caption)");
  command->add_flag("--json", request->json, "Print the findings and shots as JSON");
  command->callback([request] { lint(*request); });
}

}  // namespace moga
