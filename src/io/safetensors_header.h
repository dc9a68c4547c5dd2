// The JSON header of a safetensors file, read strictly and without a document tree, so that a hostile header
// can neither nest deeply nor hide a name given twice.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace moga {

// One entry as written in the header; nothing is checked against the file yet.
struct SafetensorsEntry {
  std::string dtype;
  std::vector<int64_t> shape;
  uint64_t begin = 0;
  uint64_t end = 0;
};

struct SafetensorsHeader {
  std::map<std::string, SafetensorsEntry> tensors;
  std::map<std::string, std::string> metadata;
};

// Throws Error, beginning with `file`, if `text` is not JSON of exactly the safetensors form: an object of
// {"dtype": text, "shape": [whole numbers], "data_offsets": [begin, end]} and optionally "__metadata__" with
// text values.
SafetensorsHeader parse_safetensors_header(std::string_view text, const std::string& file);

}  // namespace moga
