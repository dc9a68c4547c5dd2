#include "base/text_util.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

namespace moga {

static size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substitute = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({substitute, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

std::optional<std::string> nearest_word(std::string_view word, const std::vector<std::string>& candidates) {
  const size_t allowed = std::max<size_t>(1, word.size() / 3);
  std::optional<std::string> best;
  size_t best_distance = allowed + 1;
  for (const std::string& candidate : candidates) {
    const size_t distance = edit_distance(word, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

bool is_utf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    const auto lead = static_cast<unsigned char>(text[i]);
    size_t extra = 0;
    uint32_t code = lead;
    if (lead >= 0xF0) {
      extra = 3;
      code = lead & 0x07U;
    } else if (lead >= 0xE0) {
      extra = 2;
      code = lead & 0x0FU;
    } else if (lead >= 0xC0) {
      extra = 1;
      code = lead & 0x1FU;
    } else if (lead >= 0x80) {
      return false;
    }
    if (lead >= 0xF8 || i + extra >= text.size()) {
      return false;
    }
    for (size_t j = 1; j <= extra; ++j) {
      const auto next = static_cast<unsigned char>(text[i + j]);
      if ((next & 0xC0U) != 0x80U) {
        return false;
      }
      code = (code << 6U) | (next & 0x3FU);
    }
    constexpr std::array<uint32_t, 4> kSmallest = {0, 0x80, 0x800, 0x10000};
    if (code < kSmallest[extra] || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) {
      return false;
    }
    i += extra + 1;
  }
  return true;
}

std::string trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n\f\v";
  const size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) {
    return "";
  }
  return std::string(text.substr(first, text.find_last_not_of(kSpace) - first + 1));
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  size_t begin = 0;
  while (true) {
    const size_t end = text.find(separator, begin);
    parts.emplace_back(text.substr(begin, end == std::string_view::npos ? end : end - begin));
    if (end == std::string_view::npos) {
      return parts;
    }
    begin = end + 1;
  }
}

static std::string scaled(double value, double unit, std::initializer_list<const char*> suffixes,
                          const char* gap) {
  const char* suffix = *suffixes.begin();
  for (const char* next : suffixes) {
    suffix = next;
    if (std::abs(value) < unit || next == *(suffixes.end() - 1)) {
      break;
    }
    value /= unit;
  }
  const int decimals = std::abs(value) >= 100 || value == std::floor(value) ? 0 : 1;
  return fmt::format("{:.{}f}{}{}", value, decimals, *suffix == '\0' ? "" : gap, suffix);
}

std::string human_count(double value) {
  return scaled(value, 1000, {"", "k", "M", "G", "T", "P", "E"}, "");
}

std::string human_bytes(double bytes) {
  return scaled(bytes, 1024, {"B", "KiB", "MiB", "GiB", "TiB"}, " ");
}

std::string human_seconds(double seconds) {
  if (seconds < 60) {
    return fmt::format("{:.1f} s", seconds);
  }
  const auto total = static_cast<long>(std::lround(seconds));
  if (total < 3600) {
    return fmt::format("{} min {:02d} s", total / 60, total % 60);
  }
  return fmt::format("{} h {:02d} min", total / 3600, total / 60 % 60);
}

}  // namespace moga
