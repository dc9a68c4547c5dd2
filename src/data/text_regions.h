// Text and logos burnt into a film (subtitles, watermarks), and the largest crop that avoids them.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <opencv2/core.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/config.h"

namespace moga {

enum class TextKind { kSubtitle, kWatermark };
template <>
struct EnumNames<TextKind> {
  static constexpr std::array<std::pair<TextKind, const char*>, 2> kNames = {
      {{TextKind::kSubtitle, "subtitle"}, {TextKind::kWatermark, "watermark"}}};
};

struct TextRegion {
  TextKind kind = TextKind::kSubtitle;
  cv::Rect box;           // pixels of the full frame
  std::string text;       // what was read there most confidently; empty for a logo without letters
  double confidence = 0;  // of the OCR, 0 to 1; for logos how sure it is that they stand still
  double share = 0;       // of the sampled frames that show it
};

struct TextSettings {
  // Longer frame side at which OCR looks; larger frames are scaled down to it.
  int64_t ocr_size = 1280;
  double least_confidence = 0.6;
  // Text or edges that stay in place in this share of the sampled frames are a watermark.
  double static_share = 0.8;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("ocr_size", s.ocr_size, "Longer frame side for OCR in pixels; larger frames are scaled down");
    v("least_confidence", s.least_confidence, "Words below this OCR confidence (0 to 1) are ignored");
    v("static_share", s.static_share,
      "Text and edges that stay in place in this share of the sampled frames are a watermark");
  }
};

// Looks at sampled frames of one film or shot (about one a second; five or more for watermarks) one at a
// time. Each costs an OCR pass of some tenths of a second. Memory does not grow with their number, but for
// the texts.
class TextFinder {
 public:
  // Throws Error if tesseract's English data is missing, with the package that holds it.
  explicit TextFinder(const TextSettings& settings = {});
  ~TextFinder();
  TextFinder(TextFinder&&) noexcept;
  TextFinder& operator=(TextFinder&&) noexcept;

  // CV_8UC3 RGB, all of one size; throws Error on others. `picture` (may be empty: all) is where the picture
  // is inside black borders.
  void add(const cv::Mat& rgb, const cv::Rect& picture = {});
  std::vector<TextRegion> regions() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The largest crop inside `picture` (the frame without black borders; empty: all of it) that meets no box,
// has the picture's aspect ratio if `aspect` is 0 (else width / height = `aspect`) to the pixel, and even
// sides and corners. Nothing if it would have less than `least_share` of the area of `picture`. Throws Error
// if the frame is empty or `picture` is not inside it.
std::optional<cv::Rect> largest_crop(int width, int height, const cv::Rect& picture,
                                     const std::vector<cv::Rect>& boxes, double aspect, double least_share);

}  // namespace moga
