#include "script/film_script.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/text_util.h"

namespace moga {

int64_t FilmScript::total_frames() const {
  return shots.empty() ? 0 : shots.back().first_frame + shots.back().frame_count;
}

int64_t FilmScript::latent_frames() const {
  return shots.empty() ? 0 : (total_frames() - 1) / 4 + 1;
}

std::vector<int64_t> FilmScript::shot_starts() const {
  std::vector<int64_t> starts;
  starts.reserve(shots.size());
  for (const Shot& shot : shots) {
    starts.push_back(shot.first_frame == 0 ? 0 : (shot.first_frame - 1) / 4 + 1);
  }
  return starts;
}

const char* severity_name(Severity severity) {
  switch (severity) {
    case Severity::kNote:
      return "note";
    case Severity::kWarning:
      return "warning";
    case Severity::kError:
      return "error";
  }
  return "error";
}

void snap_shots(std::vector<Shot>& shots, double fps) {
  double asked = 0;     // frames up to the end of the shot, as asked for
  int64_t latents = 0;  // latent frames up to the end of the shot; l of them hold 4 (l - 1) + 1 frames
  for (Shot& shot : shots) {
    asked += shot.seconds ? *shot.seconds * fps : static_cast<double>(shot.frames.value_or(shot.frame_count));
    const int64_t nearest = static_cast<int64_t>(std::llround((asked - 1) / 4)) + 1;
    const int64_t end = std::max(latents + 1, nearest);
    shot.first_frame = latents == 0 ? 0 : 4 * (latents - 1) + 1;
    shot.frame_count = 4 * (end - 1) + 1 - shot.first_frame;
    latents = end;
  }
}

std::string expand_references(const std::string& prompt, const std::map<std::string, std::string>& characters,
                              std::vector<std::string>& problems, std::vector<std::string>& used) {
  std::string text;
  for (size_t i = 0; i < prompt.size(); ++i) {
    const char c = prompt[i];
    if ((c == '{' || c == '}') && i + 1 < prompt.size() && prompt[i + 1] == c) {
      text += c;
      ++i;
    } else if (c != '{') {
      text += c;
    } else {
      const size_t end = prompt.find_first_of("{}", i + 1);
      if (end == std::string::npos || prompt[end] == '{') {
        problems.emplace_back("an opening brace without its closing one; write {{ for a brace in the text");
        text += c;
        continue;
      }
      const std::string name = trim(std::string_view(prompt).substr(i + 1, end - i - 1));
      const auto found = characters.find(name);
      if (found == characters.end()) {
        std::vector<std::string> known;
        for (const auto& [key, description] : characters) {
          known.push_back(key);
        }
        const auto near = nearest_word(name.substr(0, 100), known);
        problems.push_back(fmt::format("character '{{{}}}' is not defined{}", name.substr(0, 100),
                                       near            ? fmt::format(", did you mean '{{{}}}'?", *near)
                                       : known.empty() ? "; the script has no characters"
                                                       : ""));
        text += prompt.substr(i, end + 1 - i);
      } else {
        used.push_back(name);
        text += found->second;
      }
      i = end;
    }
  }
  return text;
}

int64_t count_words(const std::string& text) {
  int64_t words = 0;
  bool inside = false;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    // Lead bytes from E3 on start U+3000 and above, where the scripts without spaces are.
    if (byte >= 0xE3) {
      ++words;
      inside = false;
    } else if (byte == ' ' || byte == '\t' || byte == '\n' || byte == '\r') {
      inside = false;
    } else if (byte < 0x80 || byte >= 0xC0) {
      words += inside ? 0 : 1;
      inside = true;
    }
  }
  return words;
}

FilmScript parse_script(const std::string& yaml, const std::string& file, const ScriptDefaults& defaults) {
  LintResult result = lint_script(yaml, defaults);
  if (result.ok()) {
    return std::move(*result.script);
  }
  const auto is_error = [](const Finding& f) { return f.severity == Severity::kError; };
  const auto first = std::find_if(result.findings.begin(), result.findings.end(), is_error);
  const auto errors = std::count_if(result.findings.begin(), result.findings.end(), is_error);
  const std::string place = first->line > 0 ? fmt::format(":{}:{}", first->line, first->column) : "";
  fail("{}{}: {}{}", file, place, first->message,
       errors > 1 ? fmt::format(" (and {} more; moga lint lists them)", errors - 1) : "");
}

FilmScript load_script(const std::filesystem::path& path, const ScriptDefaults& defaults) {
  ScriptDefaults here = defaults;
  here.folder = std::filesystem::absolute(path).parent_path();
  return parse_script(read_file(path, kMaxScriptBytes), path.string(), here);
}

// A double-quoted YAML scalar on one line: the one style that can hold every character.
static std::string quoted(const std::string& text) {
  MOGA_CHECK(is_utf8(text), "script: expected UTF-8 text, found other bytes in a text of {} bytes",
             text.size());
  std::string out = "\"";
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const std::string_view rest = std::string_view(text).substr(i);
    if (byte == '"' || byte == '\\') {
      out += '\\';
      out += text[i];
    } else if (byte == '\n') {
      out += "\\n";
    } else if (byte < 0x20 || byte == 0x7F) {
      out += fmt::format("\\x{:02x}", byte);
    } else if (byte == 0xC2 && static_cast<unsigned char>(text[i + 1]) < 0xA0) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[++i]));
    } else if (rest.starts_with("\u2028") || rest.starts_with("\u2029") || rest.starts_with("\uFEFF")) {
      out += rest.starts_with("\u2028") ? "\\u2028" : rest.starts_with("\u2029") ? "\\u2029" : "\\ufeff";
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out + "\"";
}

// Text that expand_references() gives back unchanged.
static std::string escape_braces(const std::string& text) {
  std::string out;
  for (const char c : text) {
    out += c;
    if (c == '{' || c == '}') {
      out += c;
    }
  }
  return out;
}

std::string script_to_yaml(const FilmScript& script) {
  std::string out;
  const auto line = [&](const char* key, const std::string& text) {
    if (!text.empty()) {
      out += fmt::format("{}: {}\n", key, quoted(text));
    }
  };
  line("title", script.title);
  if (script.width > 0) {
    out += fmt::format("size: {}x{}\n", script.width, script.height);
  }
  if (script.fps > 0) {
    out += fmt::format("fps: {}\n", script.fps);
  }
  out += fmt::format("seed: {}\n", script.seed);
  line("global", script.global_prompt.empty() ? escape_braces(script.global) : script.global_prompt);
  if (script.negative) {
    out += fmt::format("negative: {}\n", quoted(*script.negative));
  }
  line("first_frame", script.first_frame_picture);
  if (!script.characters.empty()) {
    out += "characters:\n";
    for (const auto& [name, description] : script.characters) {
      out += fmt::format("  {}: {}\n", quoted(name), quoted(description));
    }
  }
  const SamplingSettings& sampling = script.sampling;
  if (sampling.solver || sampling.steps || sampling.guidance || sampling.shift) {
    out += "sampling:\n";
    if (sampling.solver) {
      out += fmt::format("  solver: {}\n", quoted(*sampling.solver));
    }
    if (sampling.steps) {
      out += fmt::format("  steps: {}\n", *sampling.steps);
    }
    if (sampling.guidance) {
      out += fmt::format("  guidance: {}\n", *sampling.guidance);
    }
    if (sampling.shift) {
      out += fmt::format("  shift: {}\n", *sampling.shift);
    }
  }
  out += "shots:\n";
  for (const Shot& shot : script.shots) {
    out +=
        fmt::format("  - prompt: {}\n", quoted(shot.prompt.empty() ? escape_braces(shot.text) : shot.prompt));
    if (shot.seconds) {
      out += fmt::format("    seconds: {}\n", *shot.seconds);
    } else {
      out += fmt::format("    frames: {}\n", shot.frames.value_or(shot.frame_count));
    }
  }
  return out;
}

}  // namespace moga
