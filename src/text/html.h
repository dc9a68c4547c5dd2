// HTML character references in prompts that were copied from web pages.
#pragma once

#include <string>
#include <string_view>

namespace moga {

// One pass over `text`: &#65; &#x41; and the common named references (Latin-1 and typographic ones) become
// UTF-8 characters; anything else stays as it is. As in HTML, the old Latin-1 names also work without ';'.
// Numbers 128-159 are read as Windows-1252, zero, surrogates and numbers above U+10FFFF become U+FFFD.
std::string html_unescape(std::string_view text);

void append_utf8(char32_t code, std::string& out);

}  // namespace moga
