// Film scripts: what a film is to show, shot by shot. docs/script.md documents the format.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace moga {

struct Shot {
  std::string prompt;             // as written, with {character} references
  std::string text;               // the prompt with references replaced by the characters' descriptions
  std::optional<double> seconds;  // one of seconds or frames was given
  std::optional<int64_t> frames;
  int64_t first_frame = 0;   // snapped: 0 or 4n + 1
  int64_t frame_count = 0;   // snapped: 4n + 1 in the first shot, 4n in the others
};

struct SamplingSettings {
  std::optional<std::string> solver;  // absent settings take the model's defaults
  std::optional<int64_t> steps;
  std::optional<double> guidance;
  std::optional<double> shift;
};

struct FilmScript {
  std::string title;
  std::string global;    // film-wide text, every shot attends to it
  std::string negative;  // negative prompt for guidance
  int64_t width = 0;     // pixels; 0 means the model's own size
  int64_t height = 0;
  double fps = 0;  // 0 means the model's own rate
  uint64_t seed = 0;
  std::map<std::string, std::string> characters;
  SamplingSettings sampling;
  std::vector<Shot> shots;

  int64_t total_frames() const;   // 4n + 1
  int64_t latent_frames() const;  // (total_frames - 1) / 4 + 1
  // First latent frame of each shot: 0, then (first_frame - 1) / 4 + 1.
  std::vector<int64_t> shot_starts() const;
};

enum class Severity { kWarning, kError };

struct Finding {
  Severity severity;
  int line = 0;  // 1-based; 0 where there is no place
  int column = 0;
  std::string message;
};

struct ScriptDefaults {
  int64_t width = 832;
  int64_t height = 480;
  double fps = 16;
  int64_t max_shots = 1000;
  int64_t max_frames = 100000;
};

struct LintResult {
  std::optional<FilmScript> script;  // present if there is no error
  std::vector<Finding> findings;
  bool ok() const { return script.has_value(); }
};

// Checks everything and reports all findings, not only the first. `file` is for messages only.
LintResult lint_script(const std::string& yaml, const ScriptDefaults& defaults = {});

// For programs: the script, or Error with the first error finding as "file:line:column: message".
FilmScript parse_script(const std::string& yaml, const std::string& file, const ScriptDefaults& defaults = {});
FilmScript load_script(const std::filesystem::path& path, const ScriptDefaults& defaults = {});

// YAML text that parses back to the same script.
std::string script_to_yaml(const FilmScript& script);

}  // namespace moga
