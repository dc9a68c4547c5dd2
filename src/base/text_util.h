// Small string helpers shared by error messages and parsers.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moga {

// The candidate with the smallest edit distance to `word`, if that distance is at most a third of its length
// (and at least one edit is always allowed). Used for "did you mean".
std::optional<std::string> nearest_word(std::string_view word, const std::vector<std::string>& candidates);

// True if `text` is well-formed UTF-8 (RFC 3629: no overlong forms, no surrogates, at most U+10FFFF).
bool is_utf8(std::string_view text);

std::string trim(std::string_view text);
std::vector<std::string> split(std::string_view text, char separator);

// 12345678 -> "12.3M"; units of 1000. 1.5e12 -> "1.5T".
std::string human_count(double value);
// Bytes in binary units: 1536 -> "1.5 KiB".
std::string human_bytes(double bytes);
// Seconds as "8.2 s", "3 min 05 s" or "2 h 07 min".
std::string human_seconds(double seconds);

}  // namespace moga
