#include "base/config.h"

#include "base/atomic_file.h"

namespace moga {

std::string node_place(const YAML::Node& node, const std::string& file) {
  const YAML::Mark mark = node.Mark();
  return mark.is_null() ? file : fmt::format("{}:{}:{}", file, mark.line + 1, mark.column + 1);
}

YAML::Node parse_yaml(const std::string& text, const std::string& file) {
  MOGA_CHECK(is_utf8(text), "{}: expected UTF-8 text", file);
  try {
    return YAML::Load(text);
  } catch (const YAML::Exception& error) {
    fail("{}:{}:{}: not valid YAML: {}", file, error.mark.line + 1, error.mark.column + 1, error.msg);
  }
}

std::string read_config_text(const std::filesystem::path& path) {
  constexpr size_t kMaxConfigBytes = size_t{16} << 20U;
  return read_file(path, kMaxConfigBytes);
}

}  // namespace moga
