#include "media/film_info.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/text_util.h"

namespace moga {

namespace {

using Json = nlohmann::ordered_json;
constexpr int kMaxDepth = 64;  // nlohmann writes recursively, so a hostile comment must not nest deeply

// Text for a terminal: no control characters (they could move the cursor or recolour), no broken UTF-8.
std::string printable(const std::string& text) {
  std::string out = text;
  for (size_t i = 0; i < out.size(); ++i) {
    const auto c = static_cast<unsigned char>(out[i]);
    const bool c1 = c == 0xC2 && i + 1 < out.size() && static_cast<unsigned char>(out[i + 1]) < 0xA0;
    if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7F) {
      out[i] = '?';
    } else if (c1) {  // U+0080..U+009F
      out.replace(i, 2, "?");
    }
  }
  if (!is_utf8(out)) {
    std::replace_if(
        out.begin(), out.end(), [](char c) { return (static_cast<unsigned char>(c) & 0x80U) != 0; }, '?');
  }
  return out;
}

std::string dump(const Json& json, int indent = -1) {
  return json.dump(indent, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string indented(const std::string& text) {
  std::string out;
  for (const std::string& line : split(text, '\n')) {
    out += line.empty() ? "\n" : "  " + line + "\n";
  }
  while (out.size() > 1 && out[out.size() - 1] == '\n' && out[out.size() - 2] == '\n') {
    out.pop_back();
  }
  return out;
}

struct Record {
  std::vector<std::pair<std::string, std::string>> settings;  // dotted key, value
  std::vector<std::pair<std::string, std::string>> texts;     // of several lines
};

void flatten(const Json& value, const std::string& key, Record& record) {
  if (value.is_object() && !value.empty()) {
    for (const auto& [name, child] : value.items()) {
      flatten(child, key.empty() ? name : fmt::format("{}.{}", key, name), record);
    }
  } else if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    (text.find('\n') == std::string::npos ? record.settings : record.texts).emplace_back(key, text);
  } else {
    record.settings.emplace_back(key, dump(value));
  }
}

std::string table(const std::vector<std::pair<std::string, std::string>>& rows) {
  size_t width = 0;
  for (const auto& row : rows) {
    width = std::max(width, row.first.size());
  }
  std::string out;
  for (const auto& [key, value] : rows) {
    out += fmt::format("  {:<{}}  {}\n", printable(key), width, printable(value));
  }
  return out;
}

std::string capitalised(std::string text) {
  if (!text.empty() && text[0] >= 'a' && text[0] <= 'z') {
    text[0] = static_cast<char>(text[0] - 'a' + 'A');
  }
  return text;
}

}  // namespace

std::optional<Json> film_record(const VideoInfo& info) {
  const size_t start = info.comment.find_first_not_of(" \t\r\n");
  if (start == std::string::npos || info.comment[start] != '{') {
    return std::nullopt;
  }
  bool too_deep = false;
  Json record = Json::parse(
      info.comment,
      [&](int depth, Json::parse_event_t, Json&) {
        too_deep = too_deep || depth > kMaxDepth;
        return depth <= kMaxDepth;
      },
      false);
  return too_deep || !record.is_object() ? std::nullopt : std::optional<Json>(std::move(record));
}

std::string film_script_text(const VideoInfo& info, const std::string& file) {
  const auto record = film_record(info);
  MOGA_CHECK(record && record->contains("script"),
             "{} carries no film script: only films that moga generated have one in their comment tag", file);
  const Json& script = record->at("script");
  return script.is_string() ? script.get<std::string>() : dump(script, 2) + "\n";
}

std::string describe_film(const VideoInfo& info, const std::string& file) {
  std::vector<std::pair<std::string, std::string>> rows = {
      {"size", fmt::format("{} x {}", info.width, info.height)},
      {"rate", info.fps > 0 ? fmt::format("{:.5g} fps", info.fps) : "unknown"},
      {"frames", info.frames > 0 ? fmt::format("{}", info.frames) : "unknown"},
      {"duration", info.seconds > 0 ? human_seconds(info.seconds) : "unknown"},
      {"codec", info.pixel_format.empty() ? info.codec : info.codec + ", " + info.pixel_format}};
  if (!info.title.empty()) {
    rows.emplace_back("title", info.title);
  }
  std::string out = printable(file) + "\n" + table(rows);
  const auto json = film_record(info);
  if (!json) {
    if (!info.comment.empty()) {
      out += "\nComment\n" + indented(printable(info.comment));
    }
    return out;
  }
  Record record;
  for (const auto& [key, value] : json->items()) {
    if (key == "script" && !value.is_string()) {
      record.texts.emplace_back(key, dump(value, 2));
    } else {
      flatten(value, key, record);
    }
  }
  if (!record.settings.empty()) {
    out += "\nSettings\n" + table(record.settings);
  }
  for (const auto& [key, text] : record.texts) {
    out += fmt::format("\n{}\n", capitalised(printable(key))) + indented(printable(text));
  }
  return out;
}

Json film_to_json(const VideoInfo& info, const std::string& file) {
  const auto known = [](auto value) { return value > 0 ? Json(value) : Json(nullptr); };
  Json json = {{"file", file},
               {"width", info.width},
               {"height", info.height},
               {"fps", known(info.fps)},
               {"frames", known(info.frames)},
               {"seconds", known(info.seconds)},
               {"codec", info.codec},
               {"pixel_format", info.pixel_format},
               {"title", info.title}};
  const auto record = film_record(info);
  json["comment"] = record ? *record : Json(info.comment);
  return json;
}

}  // namespace moga
