// Reads a film script and says everything that is wrong with it. The node tree is walked by what the format
// knows, never generically, so aliases that multiply in a generic walk cost nothing here.
#include <fmt/format.h>
#include <yaml-cpp/depthguard.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <set>
#include <sstream>

#include "base/error.h"
#include "base/text_util.h"
#include "script/film_script.h"

namespace moga {
namespace {

// Where the documents of a YAML text begin.
struct DocumentStarts : YAML::EventHandler {
  std::vector<int> lines;
  void OnDocumentStart(const YAML::Mark& mark) override { lines.push_back(mark.line); }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {
  }
  void OnMapEnd() override {}
};

constexpr size_t kMaxFindings = 500;
constexpr size_t kQuoteBytes = 60;  // of the user's text in a message
constexpr int64_t kMaxPixels = 8192;
constexpr double kMaxFps = 240;

std::string excerpt(const std::string& text) {
  if (text.size() <= kQuoteBytes) {
    return text;
  }
  size_t end = kQuoteBytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) {
    --end;
  }
  return text.substr(0, end) + "...";
}

std::string kind(const YAML::Node& node) {
  if (node.IsMap()) {
    return "keys and values";
  }
  if (node.IsSequence()) {
    return "a list";
  }
  return node.IsScalar() ? "'" + excerpt(node.Scalar()) + "'" : "nothing";
}

template <typename T>
std::optional<T> number(std::string text) {
  text = trim(text);
  if (text.starts_with('+')) {
    text.erase(0, 1);
  }
  if (text == ".nan" || text == ".inf" || text == "-.inf") {
    text.erase(text.find('.'), 1);
  }
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    return std::nullopt;
  }
  return value;
}

int64_t down_to_16(int64_t value) {
  return std::max<int64_t>(16, value / 16 * 16);
}
int64_t up_to_16(int64_t value) {
  return std::max<int64_t>(16, (value + 15) / 16 * 16);
}

struct Place {
  int line = 0;
  int column = 0;
};

Place place_of(const YAML::Node& node) {
  const YAML::Mark mark = node.Mark();
  return mark.is_null() ? Place{} : Place{mark.line + 1, mark.column + 1};
}

class Linter {
 public:
  explicit Linter(const ScriptDefaults& defaults) : defaults_(defaults) { script_.folder = defaults.folder; }

  LintResult run(const std::string& yaml) {
    if (check_text(yaml)) {
      load(yaml);
    }
    LintResult result;
    std::stable_sort(findings_.begin(), findings_.end(), [](const Finding& a, const Finding& b) {
      return std::pair(a.line, a.column) < std::pair(b.line, b.column);
    });
    result.findings = std::move(findings_);
    if (!failed_) {
      result.script = std::move(script_);
    }
    return result;
  }

 private:
  using Handlers = std::vector<std::pair<std::string, std::function<void(const YAML::Node&)>>>;

  void add(Severity severity, Place place, std::string message) {
    failed_ = failed_ || severity == Severity::kError;
    if (findings_.size() < kMaxFindings) {
      findings_.push_back({severity, place.line, place.column, std::move(message)});
    } else if (findings_.size() == kMaxFindings) {
      findings_.push_back({severity, place.line, place.column, "too many findings; the others are left out"});
    }
  }
  void error(const YAML::Node& node, std::string message) {
    add(Severity::kError, place_of(node), std::move(message));
  }

  // What must hold before the parser sees a byte.
  bool check_text(const std::string& yaml) {
    if (yaml.size() > kMaxScriptBytes) {
      add(Severity::kError, {},
          fmt::format("the script has {}; a script may have {} at most",
                      human_bytes(static_cast<double>(yaml.size())),
                      human_bytes(static_cast<double>(kMaxScriptBytes))));
      return false;
    }
    int line = 0;
    for (const std::string& text : split(yaml, '\n')) {
      ++line;
      if (!is_utf8(text)) {
        add(Severity::kError, {line, 1}, "expected UTF-8 text, found other bytes in this line");
        return false;
      }
      // The parser takes some control characters for the end of the file and would drop the rest unseen.
      const auto bad = std::find_if(text.begin(), text.end(), [](char c) {
        const auto byte = static_cast<unsigned char>(c);
        return (byte < 0x20 && c != '\t' && c != '\r') || byte == 0x7F;
      });
      if (bad != text.end()) {
        add(Severity::kError, {line, static_cast<int>(bad - text.begin()) + 1},
            fmt::format("control character 0x{:02x}; write it as an escape in double quotes",
                        static_cast<unsigned char>(*bad)));
        return false;
      }
    }
    return true;
  }

  void load(const std::string& yaml) {
    YAML::Node first;
    DocumentStarts starts;
    try {
      first = YAML::Load(yaml);
      // Not LoadAll: a comma outside of brackets makes it read empty documents for ever.
      std::istringstream stream(yaml);
      YAML::Parser parser(stream);
      while (starts.lines.size() < 2 && parser.HandleNextDocument(starts)) {
      }
    } catch (const YAML::DeepRecursion&) {
      add(Severity::kError, {}, "the YAML is nested too deeply; a script needs four levels");
      return;
    } catch (const YAML::Exception& e) {
      add(Severity::kError, e.mark.is_null() ? Place{} : Place{e.mark.line + 1, e.mark.column + 1},
          "not valid YAML: " + excerpt(e.msg));
      return;
    }
    if (!first.IsDefined() || first.IsNull()) {
      add(Severity::kError, {1, 1}, "the script is empty; expected at least 'shots'");
      return;
    }
    if (starts.lines.size() > 1) {
      add(Severity::kError, {starts.lines[1] + 1, 1}, "expected one YAML document, found another");
      return;
    }
    read_film(first);
  }

  void read_map(const YAML::Node& node, const std::string& what, const Handlers& handlers) {
    std::vector<std::string> names;
    for (const auto& [name, handler] : handlers) {
      names.push_back(name);
    }
    std::set<std::string> seen;
    for (const auto& entry : node) {
      if (!entry.first.IsScalar()) {
        error(entry.first,
              fmt::format("{}: expected a plain word as the key, found {}", what, kind(entry.first)));
        continue;
      }
      const std::string key = entry.first.Scalar();
      const auto handler =
          std::find_if(handlers.begin(), handlers.end(), [&](const auto& item) { return item.first == key; });
      if (handler == handlers.end()) {
        const auto near = nearest_word(key.substr(0, kQuoteBytes), names);
        error(entry.first,
              fmt::format("unknown key '{}' in {}{}; the keys here are {}", excerpt(key), what,
                          near ? ", did you mean '" + *near + "'?" : "", fmt::join(names, ", ")));
      } else if (!seen.insert(key).second) {
        error(entry.first, fmt::format("key '{}' stands twice in {}", key, what));
      } else {
        handler->second(entry.second);
      }
    }
  }

  void read_text(const YAML::Node& node, const std::string& what, std::string& out) {
    if (node.IsScalar()) {
      out = node.Scalar();
    } else if (!node.IsNull()) {
      error(node, fmt::format("{}: expected text, found {}", what, kind(node)));
    }
  }

  // A number within [low, high]; the error names the bounds.
  template <typename T>
  std::optional<T> read_number(const YAML::Node& node, const std::string& what, T low, T high) {
    const char* expected = std::is_integral_v<T> ? "a whole number" : "a number";
    if (!node.IsScalar()) {
      error(node, fmt::format("{}: expected {}, found {}", what, expected, kind(node)));
      return std::nullopt;
    }
    const std::optional<T> value = number<T>(node.Scalar());
    if (!value) {
      error(node,
            fmt::format("{}: expected {}{}, found {}", what, expected,
                        std::is_integral_v<T> ? fmt::format(" from {} to {}", low, high) : "", kind(node)));
      return std::nullopt;
    }
    if (!(*value >= low && *value <= high)) {
      error(node,
            fmt::format("{}: expected {} from {} to {}, found {}", what, expected, low, high, kind(node)));
      return std::nullopt;
    }
    return value;
  }

  void read_film(const YAML::Node& root) {
    if (!root.IsMap()) {
      error(root, fmt::format("expected keys and values ('shots:' and so on), found {}", kind(root)));
      return;
    }
    YAML::Node shots;
    YAML::Node global;
    bool has_shots = false;
    const Handlers handlers = {
        {"title", [&](const YAML::Node& n) { read_text(n, "title", script_.title); }},
        {"global",
         [&](const YAML::Node& n) {
           read_text(n, "global", script_.global_prompt);
           global.reset(n);
         }},
        {"negative", [&](const YAML::Node& n) { read_text(n, "negative", script_.negative.emplace()); }},
        {"first_frame", [&](const YAML::Node& n) { read_first_frame(n); }},
        {"size", [&](const YAML::Node& n) { read_size(n); }},
        {"fps",
         [&](const YAML::Node& n) { script_.fps = read_number<double>(n, "fps", 0.1, kMaxFps).value_or(0); }},
        {"seed",
         [&](const YAML::Node& n) {
           script_.seed = read_number<uint64_t>(n, "seed", 0, UINT64_MAX).value_or(0);
         }},
        {"characters", [&](const YAML::Node& n) { read_characters(n); }},
        {"sampling", [&](const YAML::Node& n) { read_sampling(n); }},
        {"shots",
         [&](const YAML::Node& n) {
           shots.reset(n);
           has_shots = true;
         }},
    };
    read_map(root, "the script", handlers);
    // Characters may stand below the texts that name them.
    script_.global = expand(script_.global_prompt, "global", global);
    if (has_shots) {
      read_shots(shots);
    } else {
      error(root, "the script has no 'shots'");
    }
    for (const auto& [name, place] : character_places_) {
      if (!used_.contains(name)) {
        add(Severity::kWarning, place,
            fmt::format("character '{}' is never used; a prompt names it as {{{}}}", name, name));
      }
    }
    if (trim(script_.title).empty()) {
      add(Severity::kWarning, place_of(root), "the script has no title");
    }
  }

  void read_first_frame(const YAML::Node& node) {
    std::string& picture = script_.first_frame_picture;
    read_text(node, "first_frame", picture);
    if (trim(picture).empty()) {
      error(node, "first_frame: expected the path of a picture, relative to the script");
    } else if (!defaults_.folder.empty()) {
      std::error_code ignored;
      if (!std::filesystem::is_regular_file(script_.folder / picture, ignored)) {
        error(node, fmt::format("first_frame: there is no picture '{}' (paths start in the script's folder)",
                                excerpt(picture)));
      }
    }
  }

  void read_size(const YAML::Node& node) {
    std::vector<std::string> parts;
    if (node.IsScalar()) {
      const std::string& text = node.Scalar();  // 832x480, or 832*480 as the Wan programs write it
      parts = split(text, text.find('*') != std::string::npos ? '*' : 'x');
    } else if (node.IsSequence() && node.size() == 2 && node[0].IsScalar() && node[1].IsScalar()) {
      parts = {node[0].Scalar(), node[1].Scalar()};
    }
    const auto width = parts.size() == 2 ? number<int64_t>(parts[0]) : std::nullopt;
    const auto height = parts.size() == 2 ? number<int64_t>(parts[1]) : std::nullopt;
    if (!width || !height) {
      error(node,
            fmt::format("size: expected WIDTHxHEIGHT such as 128x80, or [128, 80], found {}", kind(node)));
      return;
    }
    if (*width < 16 || *height < 16 || *width > kMaxPixels || *height > kMaxPixels) {
      error(node,
            fmt::format("size: expected 16 to {} pixels a side, found {}x{}", kMaxPixels, *width, *height));
      return;
    }
    if (*width % 16 != 0 || *height % 16 != 0) {
      const std::string below = fmt::format("{}x{}", down_to_16(*width), down_to_16(*height));
      const std::string above = fmt::format("{}x{}", up_to_16(*width), up_to_16(*height));
      error(node, fmt::format("size: {}x{} is not divisible by 16; the nearest are {} and {}", *width,
                              *height, below, above));
      return;
    }
    script_.width = *width;
    script_.height = *height;
  }

  void read_characters(const YAML::Node& node) {
    if (!node.IsMap()) {
      error(node, fmt::format("characters: expected names with descriptions, found {}", kind(node)));
      return;
    }
    constexpr const char* kSpecial = "{}\n\r\t ";
    for (const auto& entry : node) {
      const std::string name = entry.first.IsScalar() ? entry.first.Scalar() : "";
      if (name.empty() || name.find_first_of(kSpecial) != std::string::npos || name.size() > kQuoteBytes) {
        error(
            entry.first,
            fmt::format("characters: expected a name of one word without braces, at most {} bytes, found {}",
                        kQuoteBytes, kind(entry.first)));
        continue;
      }
      std::string description;
      read_text(entry.second, "characters." + name, description);
      if (!script_.characters.emplace(name, description).second) {
        error(entry.first, fmt::format("character '{}' is described twice", name));
        continue;
      }
      character_places_.emplace_back(name, place_of(entry.first));
      if (entry.second.IsNull() || (entry.second.IsScalar() && trim(description).empty())) {
        error(entry.second, fmt::format("character '{}' has no description", name));
      }
    }
    for (const auto& [name, description] : script_.characters) {
      for (const auto& [other, unused] : script_.characters) {
        if (description.find("{" + other + "}") != std::string::npos) {
          add(Severity::kWarning, place_of(node),
              fmt::format("the description of '{}' names {{{}}}; descriptions are taken as they stand", name,
                          other));
        }
      }
      if (script_.characters.size() > kMaxFindings) {
        break;  // the check above is quadratic
      }
    }
  }

  void read_sampling(const YAML::Node& node) {
    if (!node.IsMap()) {
      error(node, fmt::format("sampling: expected keys and values, found {}", kind(node)));
      return;
    }
    SamplingSettings& s = script_.sampling;
    const Handlers handlers = {
        {"solver",
         [&](const YAML::Node& n) {
           std::string solver;
           read_text(n, "sampling.solver", solver);
           if (trim(solver).empty()) {
             error(n, "sampling.solver: expected the name of a solver, such as unipc");
           } else if (const auto& known = defaults_.solvers;
                      !known.empty() && std::find(known.begin(), known.end(), solver) == known.end()) {
             const auto near = nearest_word(solver.substr(0, kQuoteBytes), known);
             error(n, fmt::format("sampling.solver: '{}' is not known{}; the solvers are {}", excerpt(solver),
                                  near ? ", did you mean '" + *near + "'?" : "", fmt::join(known, ", ")));
           } else {
             s.solver = solver;
           }
         }},
        {"steps", [&](const YAML::Node& n) { s.steps = read_number<int64_t>(n, "sampling.steps", 1, 1000); }},
        {"guidance",
         [&](const YAML::Node& n) { s.guidance = read_number<double>(n, "sampling.guidance", 0, 100); }},
        {"shift",
         [&](const YAML::Node& n) { s.shift = read_number<double>(n, "sampling.shift", 0.01, 100); }},
    };
    read_map(node, "sampling", handlers);
  }

  std::string expand(const std::string& prompt, const std::string& what, const YAML::Node& node) {
    std::vector<std::string> problems;
    std::vector<std::string> used;
    std::string text = expand_references(prompt, script_.characters, problems, used);
    for (const std::string& problem : problems) {
      error(node, what + ": " + problem);
    }
    used_.insert(used.begin(), used.end());
    const int64_t words = count_words(text);
    if (words > defaults_.text_words) {
      add(Severity::kWarning, place_of(node),
          fmt::format("{}: about {} words; the model reads about {} and drops the rest", what, words,
                      defaults_.text_words));
    }
    return text;
  }

  void read_shots(const YAML::Node& node) {
    if (!node.IsSequence() || node.size() == 0) {
      error(node, fmt::format("shots: expected a list of shots, found {}",
                              node.IsSequence() ? "an empty list" : kind(node)));
      return;
    }
    if (static_cast<int64_t>(node.size()) > defaults_.max_shots) {
      error(node,
            fmt::format("shots: {} shots; a film may have {} at most", node.size(), defaults_.max_shots));
      return;
    }
    bool lengths_known = true;
    std::vector<Place> places;
    for (const auto& item : node) {
      places.push_back(place_of(item));
      lengths_known = read_shot(item, script_.shots.size() + 1) && lengths_known;
    }
    if (lengths_known) {
      check_lengths(node, places);
    }
  }

  // True if the shot's length could be read.
  bool read_shot(const YAML::Node& node, size_t number_of_shot) {
    Shot& shot = script_.shots.emplace_back();
    const std::string what = fmt::format("shot {}", number_of_shot);
    if (!node.IsMap()) {
      error(node,
            fmt::format("{}: expected keys and values ('prompt:' and so on), found {}", what, kind(node)));
      return false;
    }
    bool has_prompt = false;
    bool has_seconds = false;
    bool has_frames = false;
    const double max_seconds = static_cast<double>(defaults_.max_frames);
    const Handlers handlers = {
        {"prompt",
         [&](const YAML::Node& n) {
           has_prompt = true;
           read_text(n, what + ": prompt", shot.prompt);
           if (n.IsNull() || (n.IsScalar() && trim(shot.prompt).empty())) {
             error(n, what + ": the prompt is empty");
           }
           shot.text = expand(shot.prompt, what, n);
         }},
        {"seconds",
         [&](const YAML::Node& n) {
           has_seconds = true;
           shot.seconds = read_number<double>(n, what + ": seconds", 0.001, max_seconds);
         }},
        {"frames",
         [&](const YAML::Node& n) {
           has_frames = true;
           shot.frames = read_number<int64_t>(n, what + ": frames", 1, defaults_.max_frames);
         }},
    };
    read_map(node, what, handlers);
    if (!has_prompt) {
      error(node, what + ": has no prompt");
    }
    if (has_seconds == has_frames) {
      error(node, fmt::format("{}: expected one of 'seconds' and 'frames', found {}", what,
                              has_seconds ? "both" : "neither"));
      return false;
    }
    return shot.seconds || shot.frames;
  }

  void check_lengths(const YAML::Node& node, const std::vector<Place>& places) {
    const double fps = script_.fps > 0 ? script_.fps : defaults_.fps;
    double asked = 0;
    for (const Shot& shot : script_.shots) {
      asked += shot.seconds ? *shot.seconds * fps : static_cast<double>(*shot.frames);
    }
    if (asked > static_cast<double>(defaults_.max_frames)) {
      error(node, fmt::format("shots: {:.0f} frames in all; a film may have {} at most", asked,
                              defaults_.max_frames));
      return;
    }
    snap_shots(script_.shots, fps);
    double end = 0;
    for (size_t i = 0; i < script_.shots.size(); ++i) {
      const Shot& shot = script_.shots[i];
      end += shot.seconds ? *shot.seconds * fps : static_cast<double>(*shot.frames);
      const auto snapped = static_cast<double>(shot.first_frame + shot.frame_count);
      if (std::abs(snapped - end) > 1e-6) {
        add(Severity::kNote, places[i],
            fmt::format(
                "shot {}: asked to end at {:.3f} s, ends at {:.3f} s ({:.0f} frames) on a latent boundary",
                i + 1, end / fps, snapped / fps, snapped));
      }
      if (shot.frame_count <= 4 && script_.shots.size() > 1) {
        add(Severity::kWarning, places[i],
            fmt::format("shot {}: one latent frame ({:.3f} s) is too short to show motion", i + 1,
                        static_cast<double>(shot.frame_count) / fps));
      }
    }
  }

  const ScriptDefaults defaults_;
  FilmScript script_;
  std::vector<Finding> findings_;
  std::vector<std::pair<std::string, Place>> character_places_;
  std::set<std::string> used_;
  bool failed_ = false;
};

}  // namespace

LintResult lint_script(const std::string& yaml, const ScriptDefaults& defaults) {
  return Linter(defaults).run(yaml);
}

}  // namespace moga
