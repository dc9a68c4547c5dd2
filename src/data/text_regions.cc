#include "data/text_regions.h"

#include <algorithm>
#include <cmath>
#include <opencv2/imgproc.hpp>

#include "base/error.h"
#include "data/still_edges.h"
#include "data/text_ocr.h"

namespace moga {
namespace {

struct SeenLine {
  TextLine line;
  int64_t frame = 0;
};

cv::Rect padded(const cv::Rect& box, const cv::Size& frame) {
  const int margin = std::max(2, box.height / 8);
  return cv::Rect(box.x - margin, box.y - margin, box.width + 2 * margin, box.height + 2 * margin) &
         cv::Rect({}, frame);
}

bool is_light(const TextLine& a, const TextLine& b) {
  return a.confidence * static_cast<double>(a.text.size()) <
         b.confidence * static_cast<double>(b.text.size());
}

}  // namespace

struct TextFinder::Impl {
  explicit Impl(const TextSettings& s) : settings(s) {
    MOGA_CHECK(s.ocr_size >= 64 && s.ocr_size <= 8192, "ocr_size: expected 64 to 8192 pixels, found {}",
               s.ocr_size);
    MOGA_CHECK(
        s.least_confidence >= 0 && s.least_confidence <= 1 && s.static_share > 0 && s.static_share <= 1,
        "text regions: expected shares from 0 to 1, found least_confidence {}, static_share {}",
        s.least_confidence, s.static_share);
  }

  void add(const cv::Mat& rgb, const cv::Rect& inside) {
    MOGA_CHECK(!rgb.empty() && rgb.type() == CV_8UC3, "text finder: expected 8-bit RGB frames");
    MOGA_CHECK(frames == 0 || rgb.size() == size, "text finder: expected frames of {}x{}, found {}x{}",
               size.width, size.height, rgb.cols, rgb.rows);
    size = rgb.size();
    const cv::Rect all({}, size);
    picture = inside.empty() ? all : inside & all;
    MOGA_CHECK(picture.width >= 16 && picture.height >= 16,
               "text finder: the picture inside the borders is {}x{}", picture.width, picture.height);
    cv::Mat grey;
    cv::cvtColor(rgb(picture), grey, cv::COLOR_RGB2GRAY);
    still.add(grey);
    // Small frames are enlarged: tesseract reads letters of 20 to 40 pixels best.
    const double scale =
        std::min(2.0, static_cast<double>(settings.ocr_size) / std::max(grey.cols, grey.rows));
    cv::Mat page;
    cv::resize(grey, page, {}, scale, scale, scale < 1 ? cv::INTER_AREA : cv::INTER_CUBIC);
    for (TextLine& line : reader.read(page, settings.least_confidence)) {
      const auto back = [&](int value) { return static_cast<int>(std::lround(value / scale)); };
      line.box = cv::Rect(picture.x + back(line.box.x), picture.y + back(line.box.y), back(line.box.width),
                          back(line.box.height));
      lines.push_back({std::move(line), frames});
    }
    ++frames;
  }

  std::vector<TextRegion> regions() const {
    std::vector<TextRegion> found;
    std::vector<bool> used(lines.size(), false);
    for (const StillRegion& region : still.regions(settings.static_share)) {
      TextRegion mark;
      mark.kind = TextKind::kWatermark;
      mark.box = region.box + picture.tl();
      mark.confidence = mark.share = region.stillness;
      claim_lines(mark, used);
      found.push_back(mark);
    }
    // Where the scene itself stands still, edges prove nothing, but text that is always read in one place
    // does.
    for (size_t i = 0; i < lines.size(); ++i) {
      if (!used[i]) {
        add_standing_text(i, used, found);
      }
    }
    add_subtitles(used, found);
    for (TextRegion& region : found) {
      region.box = padded(region.box, size);
    }
    return found;
  }

  // Lines that stand in a mark's place are its text, and may show that it is larger than its edges told.
  void claim_lines(TextRegion& mark, std::vector<bool>& used) const {
    const cv::Rect place = mark.box;
    const TextLine* best = nullptr;
    for (size_t i = 0; i < lines.size(); ++i) {
      const TextLine& line = lines[i].line;
      if (2 * (line.box & place).area() > std::min(line.box.area(), place.area())) {
        used[i] = true;
        mark.box |= line.box;
        best = best == nullptr || is_light(*best, line) ? &line : best;
      }
    }
    if (best != nullptr) {
      mark.text = best->text;
    }
  }

  void add_standing_text(size_t first, std::vector<bool>& used, std::vector<TextRegion>& found) const {
    const cv::Rect place = lines[first].line.box;
    TextRegion region;
    std::vector<size_t> members;
    const TextLine* best = nullptr;
    int64_t last_frame = -1;
    int64_t frames_with = 0;
    for (size_t i = first; i < lines.size(); ++i) {
      const TextLine& line = lines[i].line;
      const int both = (line.box & place).area();
      // The same place on both sides: a subtitle that grows is another one.
      if (!used[i] && 10 * both > 7 * std::max(line.box.area(), place.area())) {
        members.push_back(i);
        region.box |= line.box;
        frames_with += lines[i].frame != last_frame ? 1 : 0;
        last_frame = lines[i].frame;
        best = best == nullptr || is_light(*best, line) ? &line : best;
      }
    }
    constexpr int64_t kFewest = 3;
    region.share = static_cast<double>(frames_with) / static_cast<double>(frames);
    if (frames_with < kFewest || region.share < settings.static_share) {
      return;
    }
    for (const size_t i : members) {
      used[i] = true;
    }
    region.kind = TextKind::kWatermark;
    region.text = best->text;
    region.confidence = best->confidence;
    found.push_back(region);
  }

  // Subtitles stand in the middle of a band of the lower (or upper) picture; their lines there are one
  // region.
  void add_subtitles(const std::vector<bool>& used, std::vector<TextRegion>& found) const {
    std::vector<const SeenLine*> candidates;
    for (size_t i = 0; i < lines.size(); ++i) {
      if (!used[i] && is_subtitle_place(lines[i].line.box)) {
        candidates.push_back(&lines[i]);
      }
    }
    std::sort(candidates.begin(), candidates.end(),
              [](const SeenLine* a, const SeenLine* b) { return a->line.box.y < b->line.box.y; });
    for (size_t first = 0; first < candidates.size();) {
      cv::Rect box = candidates[first]->line.box;
      size_t last = first + 1;
      while (last < candidates.size() &&
             candidates[last]->line.box.y < box.br().y + candidates[last]->line.box.height) {
        box |= candidates[last]->line.box;
        ++last;
      }
      add_band({candidates.begin() + static_cast<std::ptrdiff_t>(first),
                candidates.begin() + static_cast<std::ptrdiff_t>(last)},
               box, found);
      first = last;
    }
  }

  bool is_subtitle_place(const cv::Rect& box) const {
    const double height = static_cast<double>(box.height) / picture.height;
    const double middle = (box.x + 0.5 * box.width - picture.x) / picture.width;
    const double top = static_cast<double>(box.y - picture.y) / picture.height;
    const double bottom = static_cast<double>(box.br().y - picture.y) / picture.height;
    return height > 0.015 && height < 0.14 && std::abs(middle - 0.5) < 0.15 && (top > 0.6 || bottom < 0.25);
  }

  void add_band(const std::vector<const SeenLine*>& band, const cv::Rect& box,
                std::vector<TextRegion>& found) const {
    const TextLine* best = nullptr;
    std::vector<int64_t> seen;
    for (const SeenLine* line : band) {
      seen.push_back(line->frame);
      best = best == nullptr || is_light(*best, line->line) ? &line->line : best;
    }
    std::sort(seen.begin(), seen.end());
    const auto frames_with = std::unique(seen.begin(), seen.end()) - seen.begin();
    // One short reading may be chance; a sentence, or a second reading, is not.
    constexpr size_t kSentence = 8;
    if (frames_with < 2 && (best->text.size() < kSentence || best->confidence < 0.8)) {
      return;
    }
    TextRegion region;
    region.kind = TextKind::kSubtitle;
    region.box = box;
    region.text = best->text;
    region.confidence = best->confidence;
    region.share = static_cast<double>(frames_with) / static_cast<double>(frames);
    found.push_back(region);
  }

  TextSettings settings;
  TextReader reader;
  StillEdges still;
  cv::Size size;
  cv::Rect picture;
  std::vector<SeenLine> lines;
  int64_t frames = 0;
};

TextFinder::TextFinder(const TextSettings& settings) : impl_(std::make_unique<Impl>(settings)) {}
TextFinder::~TextFinder() = default;
TextFinder::TextFinder(TextFinder&&) noexcept = default;
TextFinder& TextFinder::operator=(TextFinder&&) noexcept = default;

void TextFinder::add(const cv::Mat& rgb, const cv::Rect& picture) {
  impl_->add(rgb, picture);
}
std::vector<TextRegion> TextFinder::regions() const {
  return impl_->regions();
}

}  // namespace moga
