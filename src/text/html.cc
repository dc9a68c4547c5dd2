#include "text/html.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>

namespace moga {

namespace {

// The names that HTML has had since its beginnings, which browsers also accept without ';'. In code order
// from U+00A0, so that the position is the character.
constexpr std::array<const char*, 96> kLatin1 = {
    "nbsp",   "iexcl",  "cent",   "pound",  "curren", "yen",    "brvbar", "sect",   "uml",    "copy",
    "ordf",   "laquo",  "not",    "shy",    "reg",    "macr",   "deg",    "plusmn", "sup2",   "sup3",
    "acute",  "micro",  "para",   "middot", "cedil",  "sup1",   "ordm",   "raquo",  "frac14", "frac12",
    "frac34", "iquest", "Agrave", "Aacute", "Acirc",  "Atilde", "Auml",   "Aring",  "AElig",  "Ccedil",
    "Egrave", "Eacute", "Ecirc",  "Euml",   "Igrave", "Iacute", "Icirc",  "Iuml",   "ETH",    "Ntilde",
    "Ograve", "Oacute", "Ocirc",  "Otilde", "Ouml",   "times",  "Oslash", "Ugrave", "Uacute", "Ucirc",
    "Uuml",   "Yacute", "THORN",  "szlig",  "agrave", "aacute", "acirc",  "atilde", "auml",   "aring",
    "aelig",  "ccedil", "egrave", "eacute", "ecirc",  "euml",   "igrave", "iacute", "icirc",  "iuml",
    "eth",    "ntilde", "ograve", "oacute", "ocirc",  "otilde", "ouml",   "divide", "oslash", "ugrave",
    "uacute", "ucirc",  "uuml",   "yacute", "thorn",  "yuml"};

const std::map<std::string, char32_t, std::less<>>& bare_names() {
  static const auto names = [] {
    std::map<std::string, char32_t, std::less<>> map = {{"amp", U'&'},  {"AMP", U'&'}, {"lt", U'<'},
                                                        {"LT", U'<'},   {"gt", U'>'},  {"GT", U'>'},
                                                        {"quot", U'"'}, {"QUOT", U'"'}};
    for (size_t i = 0; i < kLatin1.size(); ++i) {
      map.emplace(kLatin1[i], static_cast<char32_t>(0xA0 + i));
    }
    return map;
  }();
  return names;
}

// Names that need their ';'.
const std::map<std::string, char32_t, std::less<>>& strict_names() {
  static const std::map<std::string, char32_t, std::less<>> names = {
      {"apos", U'\''},    {"OElig", 0x152},   {"oelig", 0x153},   {"Scaron", 0x160},  {"scaron", 0x161},
      {"Yuml", 0x178},    {"fnof", 0x192},    {"circ", 0x2C6},    {"tilde", 0x2DC},   {"ensp", 0x2002},
      {"emsp", 0x2003},   {"thinsp", 0x2009}, {"zwnj", 0x200C},   {"zwj", 0x200D},    {"ndash", 0x2013},
      {"mdash", 0x2014},  {"lsquo", 0x2018},  {"rsquo", 0x2019},  {"sbquo", 0x201A},  {"ldquo", 0x201C},
      {"rdquo", 0x201D},  {"bdquo", 0x201E},  {"dagger", 0x2020}, {"Dagger", 0x2021}, {"bull", 0x2022},
      {"hellip", 0x2026}, {"permil", 0x2030}, {"prime", 0x2032},  {"Prime", 0x2033},  {"lsaquo", 0x2039},
      {"rsaquo", 0x203A}, {"euro", 0x20AC},   {"trade", 0x2122},  {"larr", 0x2190},   {"uarr", 0x2191},
      {"rarr", 0x2192},   {"darr", 0x2193},   {"minus", 0x2212},  {"infin", 0x221E},  {"asymp", 0x2248},
      {"ne", 0x2260},     {"le", 0x2264},     {"ge", 0x2265},     {"hearts", 0x2665}, {"alpha", 0x3B1},
      {"beta", 0x3B2},    {"gamma", 0x3B3},   {"delta", 0x3B4},   {"pi", 0x3C0},      {"Omega", 0x3A9},
      {"lpar", U'('},     {"rpar", U')'},     {"comma", U','},    {"period", U'.'},   {"colon", U':'},
      {"semi", U';'},     {"excl", U'!'},     {"quest", U'?'},    {"num", U'#'},      {"percnt", U'%'},
      {"sol", U'/'},      {"bsol", U'\\'},    {"lowbar", U'_'},   {"lsqb", U'['},     {"rsqb", U']'},
      {"commat", U'@'},   {"dollar", U'$'},   {"plus", U'+'},     {"equals", U'='},   {"ast", U'*'},
      {"NewLine", U'\n'}, {"Tab", U'\t'}};
  return names;
}

// What Windows-1252 has at 128..159, where Unicode has control characters nobody means; 0 where it has
// nothing.
constexpr std::array<char16_t, 32> kWindows1252 = {
    0x20AC, 0,      0x201A, 0x192,  0x201E, 0x2026, 0x2020, 0x2021, 0x2C6,  0x2030, 0x160,
    0x2039, 0x152,  0,      0x17D,  0,      0,      0x2018, 0x2019, 0x201C, 0x201D, 0x2022,
    0x2013, 0x2014, 0x2DC,  0x2122, 0x161,  0x203A, 0x153,  0,      0x17E,  0x178};

constexpr char32_t kReplacement = 0xFFFD;

int digit_value(char c, int base) {
  int value = base;
  if (c >= '0' && c <= '9') {
    value = c - '0';
  } else if (c >= 'a' && c <= 'f') {
    value = c - 'a' + 10;
  } else if (c >= 'A' && c <= 'F') {
    value = c - 'A' + 10;
  }
  return value < base ? value : -1;
}

char32_t checked_code(uint32_t code) {
  if (code >= 0x80 && code < 0xA0 && kWindows1252[code - 0x80] != 0) {
    return kWindows1252[code - 0x80];
  }
  return code == 0 || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000) ? kReplacement : code;
}

// `text` begins behind "&#". Returns how many characters belong to the reference, 0 if it is none.
size_t numeric_reference(std::string_view text, std::string& out) {
  const int base = !text.empty() && (text[0] == 'x' || text[0] == 'X') ? 16 : 10;
  const size_t first = base == 16 ? 1 : 0;
  size_t i = first;
  uint32_t code = 0;
  for (; i < text.size() && digit_value(text[i], base) >= 0; ++i) {
    code = std::min<uint32_t>(
        code * static_cast<uint32_t>(base) + static_cast<uint32_t>(digit_value(text[i], base)),
        0x110000);  // stays too large, without overflow
  }
  if (i == first) {
    return 0;
  }
  append_utf8(checked_code(code), out);
  return i < text.size() && text[i] == ';' ? i + 1 : i;
}

// `text` begins behind "&".
size_t named_reference(std::string_view text, std::string& out) {
  constexpr size_t kLongest = 8;
  size_t length = 0;
  while (length < text.size() && length < kLongest &&
         ((text[length] | 0x20) >= 'a' && (text[length] | 0x20) <= 'z'
              ? true
              : text[length] >= '0' && text[length] <= '9')) {
    ++length;
  }
  if (length < text.size() && text[length] == ';') {
    const std::string_view name = text.substr(0, length);
    for (const auto* names : {&bare_names(), &strict_names()}) {
      if (const auto found = names->find(name); found != names->end()) {
        append_utf8(found->second, out);
        return length + 1;
      }
    }
  }
  for (; length >= 2; --length) {  // the longest old name that the text begins with: "&notit" is "¬it"
    if (const auto found = bare_names().find(text.substr(0, length)); found != bare_names().end()) {
      append_utf8(found->second, out);
      return length;
    }
  }
  return 0;
}

}  // namespace

void append_utf8(char32_t code, std::string& out) {
  const auto put = [&](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  const auto c = static_cast<uint32_t>(code);
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | (c >> 6U));
    put(0x80 | (c & 0x3FU));
  } else if (c < 0x10000) {
    put(0xE0 | (c >> 12U));
    put(0x80 | ((c >> 6U) & 0x3FU));
    put(0x80 | (c & 0x3FU));
  } else {
    put(0xF0 | (c >> 18U));
    put(0x80 | ((c >> 12U) & 0x3FU));
    put(0x80 | ((c >> 6U) & 0x3FU));
    put(0x80 | (c & 0x3FU));
  }
}

std::string html_unescape(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    if (text[i] == '&') {
      const bool numeric = i + 1 < text.size() && text[i + 1] == '#';
      const size_t skip = numeric ? 2 : 1;
      const size_t used = numeric ? numeric_reference(text.substr(i + skip), out)
                                  : named_reference(text.substr(i + skip), out);
      if (used > 0) {
        i += skip + used;
        continue;
      }
    }
    out.push_back(text[i++]);
  }
  return out;
}

}  // namespace moga
