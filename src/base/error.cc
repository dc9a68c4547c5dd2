#include "base/error.h"

#include <new>
#include <string_view>

namespace moga {

std::optional<std::string> memory_shortage(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) {
    return "out of memory";
  }
  // libtorch's words, without where they come from before and the advice after them: "CUDA out of memory.
  // Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.18 GiB of which 3.27 GiB is free. Process
  // .." and
  // "[enforce fail at ..] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes. Error
  // ..".
  const std::string_view text = error.what();
  std::string_view line = text.substr(0, text.find('\n'));
  for (const std::string_view start : {"CUDA out of memory", "can't allocate memory", "not enough memory"}) {
    const size_t at = line.find(start);
    if (at != std::string_view::npos) {
      line = line.substr(at);
      for (const std::string_view end : {" free.", " bytes."}) {
        const size_t stop = line.find(end);
        line = stop == std::string_view::npos ? line : line.substr(0, stop + end.size() - 1);
      }
      return std::string(line);
    }
  }
  return std::nullopt;
}

}  // namespace moga
