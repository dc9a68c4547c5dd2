// Anti-aliased lines of text on pictures, from OpenCV's stroke fonts. Internal to src/media.
#pragma once

#include <opencv2/core.hpp>
#include <string>
#include <vector>

namespace moga {

struct TextStyle {
  int cap_height = 10;  // pixels, of a capital letter
  cv::Scalar colour;    // RGB
  double weight = 1;    // 1 regular, 1.6 bold
};

// The stroke fonts know ASCII only: accented Latin letters lose their accents, typographic quotes and dashes
// become plain ones, anything else (and broken UTF-8) one '?' a character. Control characters become spaces.
std::string to_ascii(const std::string& text);

// Width in pixels of one ASCII line.
int text_width(const std::string& ascii, const TextStyle& style);

// Breaks at spaces (inside words that are too long themselves) into at most `max_lines` lines no wider than
// `width` pixels; the last one ends in "..." if more was to come.
std::vector<std::string> wrap_text(const std::string& ascii, const TextStyle& style, int width,
                                   int max_lines);

// Draws one ASCII line with its left end at `x` and its base line at `y`, cut at the picture's edges.
void draw_text(cv::Mat& rgb, const std::string& ascii, int x, int y, const TextStyle& style);

}  // namespace moga
