#include "prepare/manifest.h"

#include "base/text_util.h"
#include "prepare/json_fields.h"

namespace moga {

namespace {

template <typename T>
void schema_into(const std::string& prefix, std::string& out) {
  using config_detail::IsOptional;
  using config_detail::IsVector;
  if constexpr (IsOptional<T>::value || IsVector<T>::value) {
    schema_into<typename T::value_type>(prefix + (IsVector<T>::value ? "[]" : ""), out);
  } else if constexpr (config_detail::Visitable<T>) {
    T value{};
    T::visit(value, [&](const char* name, auto& field, const char* help) {
      const std::string key = prefix.empty() ? name : prefix + "." + name;
      out += fmt::format("{:<36} {}\n", key, help);
      schema_into<std::decay_t<decltype(field)>>(key, out);
    });
  }
}

}  // namespace

std::string manifest_schema() {
  std::string out;
  schema_into<VideoRecord>("", out);
  return out;
}

std::string record_to_line(const VideoRecord& record) {
  return config_to_json(record).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

VideoRecord line_to_record(const std::string& line, const std::string& where) {
  const auto json = nlohmann::ordered_json::parse(line, nullptr, false);
  MOGA_CHECK(!json.is_discarded(), "{}: not a JSON object on one line", where);
  const auto version = json.is_object() ? json.find("version") : json.end();
  MOGA_CHECK(version != json.end() && *version == kManifestVersion,
             "{}: expected a manifest record with \"version\": {}; run the stages before this one again",
             where, kManifestVersion);
  VideoRecord record;
  read_json(json, record, where);
  MOGA_CHECK(!record.id.empty() && record.id.find('/') == std::string::npos, "{}: expected an id without '/'",
             where);
  return record;
}

ManifestReader::ManifestReader(const std::filesystem::path& path) : path_(path), stream_(path) {
  MOGA_CHECK(stream_.good(), "no manifest {}: run the stages before this one first", path.string());
}

std::optional<VideoRecord> ManifestReader::next() {
  std::string line;
  while (std::getline(stream_, line)) {
    ++line_;
    if (!trim(line).empty()) {
      return line_to_record(line, fmt::format("{}:{}", path_.string(), line_));
    }
  }
  return std::nullopt;
}

}  // namespace moga
