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
  std::string prompt;             // as written, with {character} references; empty if a program made the shot
  std::string text;               // the prompt with references replaced by the characters' descriptions
  std::optional<double> seconds;  // one of seconds or frames was given; neither if a program made the shot
  std::optional<int64_t> frames;
  int64_t first_frame = 0;  // snapped: 0 or 4n + 1
  int64_t frame_count = 0;  // snapped: 4n + 1 in the first shot, 4n in the others
};

struct SamplingSettings {
  std::optional<std::string> solver;  // absent settings take the model's defaults
  std::optional<int64_t> steps;
  std::optional<double> guidance;
  std::optional<double> shift;
};

struct FilmScript {
  std::string title;
  std::string global;                   // film-wide text with references replaced; every shot attends to it
  std::string global_prompt;            // the same as written; empty if a program made the script
  std::optional<std::string> negative;  // negative prompt for guidance; absent: the model's own
  std::string first_frame_picture;      // as written; the film's first frame, empty if there is none
  std::filesystem::path folder;         // where a relative picture path starts; no part of the YAML
  int64_t width = 0;                    // pixels; 0 means the model's own size
  int64_t height = 0;
  double fps = 0;  // 0 means the model's own rate
  uint64_t seed = 0;
  std::map<std::string, std::string> characters;
  SamplingSettings sampling;
  std::vector<Shot> shots;

  int64_t total_frames() const;   // 4n + 1
  int64_t latent_frames() const;  // (total_frames - 1) / 4 + 1
  std::filesystem::path first_frame_path() const { return folder / first_frame_picture; }
  // First latent frame of each shot: 0, then (first_frame - 1) / 4 + 1.
  std::vector<int64_t> shot_starts() const;
};

// A note says what was done (a cut moved to a latent frame); a warning, what is probably not meant.
enum class Severity { kNote, kWarning, kError };
const char* severity_name(Severity severity);

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
  std::filesystem::path folder;  // where the script lies: its pictures are looked for; absent: they are not
  std::vector<std::string> solvers;  // names that `sampling.solver` may have; empty: any
  // Words of one caption from which lint warns. 512 text tokens hold about three words for every four tokens.
  int64_t text_words = 384;
};

inline constexpr size_t kMaxScriptBytes = size_t{4} << 20U;

struct LintResult {
  std::optional<FilmScript> script;  // present if there is no error
  std::vector<Finding> findings;
  bool ok() const { return script.has_value(); }
};

// Checks everything and reports all findings, not only the first, in the order of the file.
LintResult lint_script(const std::string& yaml, const ScriptDefaults& defaults = {});

// For programs: the script, or Error with the first error finding as "file:line:column: message" and the
// count of the others.
FilmScript parse_script(const std::string& yaml, const std::string& file,
                        const ScriptDefaults& defaults = {});
FilmScript load_script(const std::filesystem::path& path, const ScriptDefaults& defaults = {});

// YAML text that parses back to the same script. Any UTF-8 text is safe in any field; other bytes throw
// Error. Shots and a `global` without a written form (made by a program) are written from their text and
// frame_count.
std::string script_to_yaml(const FilmScript& script);

// Sets first_frame and frame_count of every shot from its seconds or frames (frame_count itself if neither is
// given): the running total goes to the nearest 4n + 1, every shot keeps at least one latent frame.
void snap_shots(std::vector<Shot>& shots, double fps);

// `{name}` replaced by its description, `{{` and `}}` by one brace. Problems (an unknown name, an open brace)
// are appended to `problems` and the reference stays as written; names met are appended to `used`.
std::string expand_references(const std::string& prompt, const std::map<std::string, std::string>& characters,
                              std::vector<std::string>& problems, std::vector<std::string>& used);

// Words by spaces; a character of a script that has none (Chinese, Japanese, Korean) counts as a word.
int64_t count_words(const std::string& text);

}  // namespace moga
