#include "media/text_drawing.h"

#include <algorithm>
#include <cmath>
#include <opencv2/imgproc.hpp>
#include <string_view>

namespace moga {

namespace {

// Drawn four times as large and averaged down: smoother than OpenCV's own anti-aliasing of thin strokes.
constexpr int kOversample = 4;
constexpr int kFont = cv::FONT_HERSHEY_SIMPLEX;
constexpr double kFontCapHeight = 21;  // of the font at scale 1

double font_scale(const TextStyle& style) {
  return kOversample * style.cap_height / kFontCapHeight;
}

int stroke(const TextStyle& style) {
  return std::max(1, static_cast<int>(std::lround(kOversample * style.weight * style.cap_height / 8.5)));
}

// U+00C0..U+00FF without their accents.
constexpr std::string_view kLatinLetters = "AAAAAAACEEEEIIIIDNOOOOOxOUUUUYTsaaaaaaaceeeeiiiidnooooo/ouuuuyty";

const char* ascii_for(char32_t code) {
  switch (code) {
    case 0x2018:
    case 0x2019:
      return "'";
    case 0x201C:
    case 0x201D:
    case 0xAB:
    case 0xBB:
      return "\"";
    case 0x2010:
    case 0x2011:
    case 0x2013:
    case 0x2014:
    case 0x2212:
      return "-";
    case 0x2026:
      return "...";
    case 0xD7:
      return "x";
    case 0xA0:
      return " ";
    case 0x2192:
      return "->";
    default:
      return "?";
  }
}

// The code point at `text[i]` and how many bytes it has; a broken sequence counts as one unknown byte.
std::pair<char32_t, size_t> decode_utf8(const std::string& text, size_t i) {
  const auto lead = static_cast<unsigned char>(text[i]);
  const size_t length = lead < 0x80 ? 1 : lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 0;
  if (length == 0 || i + length > text.size()) {
    return {0xFFFD, 1};
  }
  char32_t code = length == 1 ? lead : lead & (0x7FU >> length);
  for (size_t k = 1; k < length; ++k) {
    const auto next = static_cast<unsigned char>(text[i + k]);
    if ((next & 0xC0U) != 0x80U) {
      return {0xFFFD, 1};
    }
    code = (code << 6U) | (next & 0x3FU);
  }
  return {code, length};
}

}  // namespace

std::string to_ascii(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const auto [code, bytes] = decode_utf8(text, i);
    i += bytes;
    if (code < 0x20 || code == 0x7F) {
      out.push_back(' ');
    } else if (code < 0x7F) {
      out.push_back(static_cast<char>(code));
    } else if (code >= 0xC0 && code <= 0xFF) {
      out.push_back(kLatinLetters[code - 0xC0]);
    } else {
      out += ascii_for(code);
    }
  }
  return out;
}

int text_width(const std::string& ascii, const TextStyle& style) {
  if (ascii.empty()) {
    return 0;
  }
  int baseline = 0;
  const cv::Size size = cv::getTextSize(ascii, kFont, font_scale(style), stroke(style), &baseline);
  return (size.width + kOversample - 1) / kOversample;
}

std::vector<std::string> wrap_text(const std::string& ascii, const TextStyle& style, int width,
                                   int max_lines) {
  std::vector<std::string> lines;
  std::string line;
  const auto fits = [&](const std::string& candidate) { return text_width(candidate, style) <= width; };
  bool cut = false;
  const auto end_line = [&] {
    cut = cut || static_cast<int>(lines.size()) >= max_lines;
    if (!cut) {
      lines.push_back(line);
    }
    line.clear();
  };
  for (size_t i = 0; i < ascii.size() && !cut;) {
    if (ascii[i] == ' ') {
      ++i;
      continue;
    }
    const size_t end = std::min(ascii.find(' ', i), ascii.size());
    const std::string word = ascii.substr(i, end - i);
    i = end;
    std::string longer = line;
    longer += line.empty() ? "" : " ";
    longer += word;
    if (!line.empty() && !fits(longer)) {
      end_line();
      longer = word;
    }
    line = longer;
    while (line.size() > 1 && !fits(line) && !cut) {  // one word that is too long
      size_t keep = 1;
      while (keep + 1 < line.size() && fits(line.substr(0, keep + 1))) {
        ++keep;
      }
      const std::string rest = line.substr(keep);
      line.resize(keep);
      end_line();
      line = rest;
    }
  }
  if (!line.empty() && !cut) {
    end_line();
  }
  if (cut && !lines.empty()) {
    std::string& last = lines.back();
    while (!last.empty() && !fits(last + "...")) {
      last.pop_back();
    }
    last += "...";
  }
  return lines;
}

void draw_text(cv::Mat& rgb, const std::string& ascii, int x, int y, const TextStyle& style) {
  if (ascii.empty()) {
    return;
  }
  const int pad = style.cap_height;  // descenders and stroke ends
  const int width = text_width(ascii, style) + 2 * pad;
  const int height = style.cap_height + 2 * pad;
  cv::Mat large(height * kOversample, width * kOversample, CV_8UC1, cv::Scalar(0));
  cv::putText(large, ascii, {pad * kOversample, (pad + style.cap_height) * kOversample}, kFont,
              font_scale(style), cv::Scalar(255), stroke(style), cv::LINE_AA);
  cv::Mat mask;
  cv::resize(large, mask, {width, height}, 0, 0, cv::INTER_AREA);

  const cv::Rect place(x - pad, y - style.cap_height - pad, width, height);
  const cv::Rect visible = place & cv::Rect(0, 0, rgb.cols, rgb.rows);
  for (int row = visible.y; row < visible.y + visible.height; ++row) {
    const uint8_t* alpha = mask.ptr<uint8_t>(row - place.y);
    auto* pixels = rgb.ptr<cv::Vec3b>(row);
    for (int column = visible.x; column < visible.x + visible.width; ++column) {
      const int a = alpha[column - place.x];
      for (int c = 0; c < 3; ++c) {
        const int target = static_cast<int>(style.colour[c]);
        pixels[column][c] = static_cast<uint8_t>((pixels[column][c] * (255 - a) + target * a + 127) / 255);
      }
    }
  }
}

}  // namespace moga
