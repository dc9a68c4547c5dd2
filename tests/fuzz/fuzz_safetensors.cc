// Any bytes as a safetensors file: its header is read and its layout checked, or an Error says why not.
#include "base/error.h"
#include "io/safetensors_header.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    const std::string_view text = moga::safetensors_header_text(bytes, "file");
    const moga::SafetensorsHeader header = moga::parse_safetensors_header(text, "file");
    const size_t data_size = size - 8 - text.size();
    moga::check_safetensors_layout(header, data_size, "file");
    for (const auto& [name, entry] : header.tensors) {
      if (entry.begin > entry.end || entry.end > data_size) {
        __builtin_trap();  // accepted, but outside the file
      }
    }
  } catch (const moga::Error&) {  // what bad files are answered with
  }
  return 0;
}
