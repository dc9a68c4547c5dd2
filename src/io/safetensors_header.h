// The JSON header of a safetensors file, read strictly and without a document tree, so that a hostile header
// can neither nest deeply nor hide a name given twice.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moga {

constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;  // bytes; the limit of the reference implementation

// One entry as written in the header; nothing is checked against the file yet.
struct SafetensorsEntry {
  std::string dtype;
  std::vector<int64_t> shape;
  uint64_t begin = 0;
  uint64_t end = 0;
};

// Bytes of one element; absent for a dtype that is not known here.
std::optional<size_t> safetensors_element_size(std::string_view dtype);

struct SafetensorsHeader {
  std::map<std::string, SafetensorsEntry> tensors;
  std::map<std::string, std::string> metadata;
};

// Throws Error, beginning with `file`, if `text` is not JSON of exactly the safetensors form: an object of
// {"dtype": text, "shape": [whole numbers], "data_offsets": [begin, end]} and optionally "__metadata__" with
// text values.
SafetensorsHeader parse_safetensors_header(std::string_view text, const std::string& file);

// Throws Error unless the entries fit a file with `data_size` bytes after the header: known dtypes, ranges
// that match dtype and shape, and every byte in exactly one tensor.
void check_safetensors_layout(const SafetensorsHeader& header, uint64_t data_size, const std::string& file);

// The header's text inside a whole file's bytes. Throws Error if the length in front of it cannot be.
std::string_view safetensors_header_text(std::string_view bytes, const std::string& file);

}  // namespace moga
