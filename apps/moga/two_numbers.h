// Options such as --size 832x480 and --windows 2x2.
#pragma once

#include <array>
#include <charconv>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/text_util.h"

namespace moga {

// "832x480" -> 832, 480.
inline std::pair<int64_t, int64_t> two_numbers(const std::string& text, const char* option,
                                               const char* example) {
  const std::vector<std::string> parts = split(text, text.find('*') != std::string::npos ? '*' : 'x');
  std::array<int64_t, 2> values{};
  bool good = parts.size() == 2;
  for (size_t i = 0; good && i < 2; ++i) {
    const char* end = parts[i].data() + parts[i].size();
    const auto [stop, error] = std::from_chars(parts[i].data(), end, values[i]);
    good = error == std::errc() && stop == end && values[i] > 0;
  }
  MOGA_CHECK(good, "{}: expected two numbers such as {}, found '{}'", option, example, text);
  return {values[0], values[1]};
}

}  // namespace moga
