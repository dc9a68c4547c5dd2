#include "prepare/sidecar.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/text_util.h"

namespace moga {

namespace fs = std::filesystem;

namespace {

struct CsvRow {
  int64_t line = 0;
  std::vector<std::string> fields;
};

std::vector<CsvRow> parse_csv(const std::string& text, const std::string& file) {
  std::vector<CsvRow> rows;
  CsvRow row{1, {""}};
  int64_t line = 1;
  bool quoted = false;
  const auto end_row = [&] {
    if (row.fields.size() > 1 || !trim(row.fields[0]).empty()) {
      rows.push_back(row);
    }
    row = {line, {""}};
  };
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    line += c == '\n' ? 1 : 0;
    if (quoted) {
      if (c != '"') {
        row.fields.back() += c;
      } else if (i + 1 < text.size() && text[i + 1] == '"') {
        row.fields.back() += '"';
        ++i;
      } else {
        quoted = false;
      }
    } else if (c == '"' && trim(row.fields.back()).empty()) {
      row.fields.back().clear();
      quoted = true;
    } else if (c == ',') {
      row.fields.emplace_back();
    } else if (c == '\n') {
      end_row();
    } else if (c != '\r') {
      row.fields.back() += c;
    }
  }
  MOGA_CHECK(!quoted, "{}:{}: a quoted field that is not closed", file, row.line);
  end_row();
  return rows;
}

double number_of(const std::string& text, const std::string& where, const char* key) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  MOGA_CHECK(end != text.c_str() && trim(end).empty() && std::isfinite(value) && value >= 0,
             "{}: {}: expected a number from 0, found '{}'", where, key, text);
  return value;
}

void set_field(SidecarCaption& caption, const std::string& key, const std::string& text,
               const std::string& where) {
  if (key == "caption") {
    caption.text = text;
  } else if (key == "video") {
    caption.video = text;
  } else if (key == "start") {
    caption.begin = number_of(text, where, "start");
  } else if (key == "end") {
    caption.end = number_of(text, where, "end");
  } else if (key == "shot") {
    const double number = number_of(text, where, "shot");
    MOGA_CHECK(number >= 1 && number == std::floor(number), "{}: shot: expected 1, 2, 3, ..., found '{}'",
               where, text);
    caption.shot = static_cast<int64_t>(number) - 1;
  } else {
    fail("{}: unknown column '{}'; expected caption, video, start, end or shot", where, key);
  }
}

void add_checked(SidecarCaption caption, const std::string& where, std::vector<SidecarCaption>& captions) {
  caption.text = clean_caption(caption.text);
  MOGA_CHECK(!caption.text.empty(), "{}: an empty caption", where);
  MOGA_CHECK(caption.begin.has_value() == caption.end.has_value(),
             "{}: expected both start and end, or neither", where);
  MOGA_CHECK(!caption.begin || *caption.begin < *caption.end, "{}: start {} is not before end {}", where,
             *caption.begin, *caption.end);
  captions.push_back(std::move(caption));
}

std::vector<SidecarCaption> read_csv(const fs::path& file) {
  const auto rows = parse_csv(read_file(file), file.string());
  MOGA_CHECK(!rows.empty(), "{}: an empty file, expected a header line", file.string());
  std::vector<std::string> header = rows[0].fields;
  for (std::string& name : header) {
    name = trim(name);
  }
  if (header[0].starts_with("\xEF\xBB\xBF")) {  // a byte order mark, as spreadsheets write it
    header[0].erase(0, 3);
  }
  MOGA_CHECK(std::find(header.begin(), header.end(), "caption") != header.end(),
             "{}: expected a header line with a column 'caption', found '{}'", file.string(),
             fmt::join(header, ","));
  std::vector<SidecarCaption> captions;
  for (size_t i = 1; i < rows.size(); ++i) {
    const std::string where = fmt::format("{}:{}", file.string(), rows[i].line);
    MOGA_CHECK(rows[i].fields.size() == header.size(), "{}: expected {} fields, found {}", where,
               header.size(), rows[i].fields.size());
    SidecarCaption caption;
    for (size_t f = 0; f < header.size(); ++f) {
      if (header[f] == "caption" || !trim(rows[i].fields[f]).empty()) {
        set_field(caption, header[f], rows[i].fields[f], where);
      }
    }
    add_checked(caption, where, captions);
  }
  return captions;
}

std::vector<SidecarCaption> read_jsonl(const fs::path& file) {
  std::vector<SidecarCaption> captions;
  int64_t number = 0;
  for (const std::string& line : split(read_file(file), '\n')) {
    const std::string where = fmt::format("{}:{}", file.string(), ++number);
    if (trim(line).empty()) {
      continue;
    }
    const auto json = nlohmann::json::parse(line, nullptr, false);
    MOGA_CHECK(json.is_object(), "{}: expected a JSON object", where);
    SidecarCaption caption;
    for (const auto& [key, value] : json.items()) {
      if (!value.is_null()) {
        set_field(caption, key, value.is_string() ? value.get<std::string>() : value.dump(), where);
      }
    }
    add_checked(caption, where, captions);
  }
  return captions;
}

std::vector<SidecarCaption> read_text(const fs::path& file) {
  std::vector<SidecarCaption> captions;
  for (const std::string& line : split(read_file(file), '\n')) {
    if (const std::string text = clean_caption(line); !text.empty()) {
      SidecarCaption caption;
      caption.shot = static_cast<int64_t>(captions.size());
      caption.text = text;
      captions.push_back(caption);
    }
  }
  MOGA_CHECK(!captions.empty(), "{}: an empty caption file", file.string());
  if (captions.size() == 1) {
    captions[0].shot.reset();
  }
  return captions;
}

bool names_video(const std::string& name, const fs::path& video) {
  const fs::path given = name;
  return given == video || given == video.filename() || given == video.stem() ||
         ("/" + video.string()).ends_with("/" + name);
}

}  // namespace

std::string clean_caption(const std::string& text) {
  const bool valid = is_utf8(text);
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte <= 0x20 || byte == 0x7F) {
      out += out.empty() || out.back() == ' ' ? "" : " ";
    } else {
      out += !valid && byte >= 0x80 ? '?' : c;
    }
  }
  return trim(out);
}

std::vector<SidecarCaption> read_captions(const fs::path& file) {
  const std::string extension = file.extension().string();
  if (extension == ".csv") {
    return read_csv(file);
  }
  if (extension == ".jsonl") {
    return read_jsonl(file);
  }
  MOGA_CHECK(extension == ".txt", "{}: expected captions in a .csv, .jsonl or .txt file", file.string());
  return read_text(file);
}

std::vector<SidecarCaption> captions_of(const fs::path& video, const std::vector<SidecarCaption>& table,
                                        bool sidecars) {
  std::vector<SidecarCaption> captions;
  for (const SidecarCaption& caption : table) {
    if (names_video(caption.video, video)) {
      captions.push_back(caption);
    }
  }
  for (const char* extension : {".jsonl", ".csv", ".txt"}) {
    const fs::path beside = fs::path(video).replace_extension(extension);
    if (sidecars && fs::exists(beside)) {
      const auto own = read_captions(beside);
      captions.insert(captions.end(), own.begin(), own.end());
      break;
    }
  }
  return captions;
}

}  // namespace moga
