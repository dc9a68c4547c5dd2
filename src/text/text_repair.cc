#include "text/text_repair.h"

#include <array>
#include <cstdint>
#include <optional>
#include <utility>

#include "base/text_util.h"
#include "text/html.h"

namespace moga {

namespace {

// The character at text[i] of well-formed UTF-8; i moves behind it.
char32_t next_character(const std::string& text, size_t& i) {
  const auto lead = static_cast<unsigned char>(text[i++]);
  if (lead < 0x80) {
    return lead;
  }
  const int more = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
  char32_t value = lead & (0x3FU >> static_cast<unsigned>(more));
  for (int k = 0; k < more; ++k) {
    value = (value << 6U) | (static_cast<unsigned char>(text[i++]) & 0x3FU);
  }
  return value;
}

// Windows-1252's bytes 0x80 to 0x9F as Unicode; 0 where it has none (those stay themselves).
constexpr std::array<char16_t, 32> kWindows1252 = {
    0x20AC, 0,      0x201A, 0x0192, 0x201E, 0x2026, 0x2020, 0x2021, 0x02C6, 0x2030, 0x0160,
    0x2039, 0x0152, 0,      0x017D, 0,      0,      0x2018, 0x2019, 0x201C, 0x201D, 0x2022,
    0x2013, 0x2014, 0x02DC, 0x2122, 0x0161, 0x203A, 0x0153, 0,      0x017E, 0x0178};

std::optional<char> windows_1252_byte(char32_t c) {
  if (c < 0x100) {
    return static_cast<char>(c);
  }
  for (size_t i = 0; i < kWindows1252.size(); ++i) {
    if (kWindows1252[i] == c) {
      return static_cast<char>(0x80 + i);
    }
  }
  return std::nullopt;
}

// The text whose UTF-8 bytes were read as Windows-1252, if that is what `text` looks like.
std::optional<std::string> undo_windows_1252(const std::string& text) {
  std::string bytes;
  bool ascii = true;
  for (size_t i = 0; i < text.size();) {
    const char32_t c = next_character(text, i);
    const auto byte = windows_1252_byte(c);
    if (!byte) {
      return std::nullopt;
    }
    ascii = ascii && c < 0x80;
    bytes += *byte;
  }
  return ascii || !is_utf8(bytes) ? std::nullopt : std::optional(bytes);
}

const char* ligature(char32_t c) {
  constexpr std::array<std::pair<char32_t, const char*>, 22> kLigatures = {
      {{0x0132, "IJ"},      {0x0133, "ij"}, {0x0149, "\u02BCn"}, {0x01C4, "D\u017D"}, {0x01C5, "D\u017E"},
       {0x01C6, "d\u017E"}, {0x01C7, "LJ"}, {0x01C8, "Lj"},      {0x01C9, "lj"},      {0x01CA, "NJ"},
       {0x01CB, "Nj"},      {0x01CC, "nj"}, {0x01F1, "DZ"},      {0x01F2, "Dz"},      {0x01F3, "dz"},
       {0xFB00, "ff"},      {0xFB01, "fi"}, {0xFB02, "fl"},      {0xFB03, "ffi"},     {0xFB04, "ffl"},
       {0xFB05, "\u017Ft"}, {0xFB06, "st"}}};
  for (const auto& [character, plain] : kLigatures) {
    if (character == c) {
      return plain;
    }
  }
  return nullptr;
}

bool is_control(char32_t c) {
  return c < 0x09 || c == 0x0B || (c >= 0x0E && c < 0x20) || c == 0x7F || (c >= 0x206A && c <= 0x206F) ||
         c == 0xFEFF || (c >= 0xFFF9 && c <= 0xFFFC);
}

// The end of the terminal escape at text[i] (ESC [ numbers letter), or i.
size_t after_escape(const std::string& text, size_t i) {
  if (text[i] != '\x1b' || i + 1 >= text.size() || text[i + 1] != '[') {
    return i;
  }
  const size_t end = text.find_first_not_of("0123456789;", i + 2);
  const bool letter = end != std::string::npos &&
                      ((text[end] >= 'A' && text[end] <= 'Z') || (text[end] >= 'a' && text[end] <= 'z'));
  return letter ? end + 1 : i;
}

std::string plain_characters(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    if (const size_t end = after_escape(text, i); end > i) {
      i = end;
      continue;
    }
    const size_t start = i;
    const char32_t c = next_character(text, i);
    if (is_control(c)) {
      continue;
    }
    if (c >= 0xFF01 && c <= 0xFF5E) {
      out += static_cast<char>(c - 0xFF01 + '!');
    } else if (c == 0x3000) {
      out += ' ';
    } else if (c == 0x02BC || (c >= 0x2018 && c <= 0x201B)) {
      out += '\'';
    } else if (c >= 0x201C && c <= 0x201F) {
      out += '"';
    } else if (const char* plain = ligature(c)) {
      out += plain;
    } else {
      out.append(text, start, i - start);
    }
  }
  return out;
}

}  // namespace

std::string repair_text(const std::string& text) {
  std::string now = text;
  constexpr int kMostRounds = 16;  // each undoes one layer of damage
  for (int round = 0; round < kMostRounds; ++round) {
    std::string next = now.find('<') == std::string::npos ? html_unescape(now) : now;
    if (const auto undone = undo_windows_1252(next)) {
      next = *undone;
    }
    next = plain_characters(next);
    if (next == now) {
      break;
    }
    now = std::move(next);
  }
  return now;
}

}  // namespace moga
