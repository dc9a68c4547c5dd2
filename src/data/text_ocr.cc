#include "data/text_ocr.h"

#include <tesseract/baseapi.h>
#include <tesseract/resultiterator.h>

#include <algorithm>
#include <cctype>
#include <opencv2/imgproc.hpp>

#include "base/error.h"
#include "base/text_util.h"

namespace moga {
namespace {

// Letters and digits; the bytes of any letter beyond ASCII count too.
int64_t letters_in(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte >= 0x80 || std::isalnum(byte) != 0;
  });
}

// Words of a line stand side by side, no farther apart than their height.
bool same_line(const cv::Rect& a, const cv::Rect& b) {
  const int shared = std::min(a.br().y, b.br().y) - std::max(a.y, b.y);
  const int gap = std::max(a.x, b.x) - std::min(a.br().x, b.br().x);
  return 2 * shared > std::min(a.height, b.height) && gap < 3 * std::max(a.height, b.height) / 2;
}

std::vector<TextLine> join_words(const std::vector<TextLine>& words) {
  std::vector<TextLine> lines;
  std::vector<double> weights;
  for (const TextLine& word : words) {
    const auto weight = static_cast<double>(word.text.size());
    const auto line = std::find_if(lines.begin(), lines.end(),
                                   [&](const TextLine& l) { return same_line(l.box, word.box); });
    if (line == lines.end()) {
      lines.push_back(word);
      weights.push_back(weight);
      continue;
    }
    double& sum = weights[static_cast<size_t>(line - lines.begin())];
    line->confidence = (line->confidence * sum + word.confidence * weight) / (sum + weight);
    sum += weight;
    line->text += " " + word.text;
    line->box |= word.box;
  }
  return lines;
}

}  // namespace

struct TextReader::Impl {
  tesseract::TessBaseAPI api;

  std::vector<TextLine> words(const cv::Mat& dark_on_light, double least_confidence) {
    api.SetImage(dark_on_light.data, dark_on_light.cols, dark_on_light.rows, 1,
                 static_cast<int>(dark_on_light.step));
    // Only suppresses a guess: text of a film has no size in points.
    api.SetSourceResolution(150);
    std::vector<TextLine> words;
    if (api.Recognize(nullptr) != 0) {
      return words;
    }
    const std::unique_ptr<tesseract::ResultIterator> word(api.GetIterator());
    if (word == nullptr) {
      return words;
    }
    do {
      const std::unique_ptr<char[]> text(word->GetUTF8Text(tesseract::RIL_WORD));
      const double confidence = word->Confidence(tesseract::RIL_WORD) / 100.0;
      int left = 0;
      int top = 0;
      int right = 0;
      int bottom = 0;
      if (text == nullptr || confidence < least_confidence ||
          !word->BoundingBox(tesseract::RIL_WORD, &left, &top, &right, &bottom)) {
        continue;
      }
      const std::string trimmed = trim(text.get());
      // Texture is read as bars and dots.
      if (letters_in(trimmed) * 2 > static_cast<int64_t>(trimmed.size())) {
        words.push_back({cv::Rect(left, top, right - left, bottom - top), trimmed, confidence});
      }
    } while (word->Next(tesseract::RIL_WORD));
    return words;
  }
};

TextReader::TextReader() : impl_(std::make_unique<Impl>()) {
  // Its messages would go to stderr.
  MOGA_CHECK(
      impl_->api.Init(nullptr, "eng", tesseract::OEM_LSTM_ONLY) == 0,
      "cannot start tesseract with English data: install tesseract-ocr-eng, or set TESSDATA_PREFIX to the "
      "folder that holds eng.traineddata");
  impl_->api.SetVariable("debug_file", "/dev/null");
  impl_->api.SetPageSegMode(tesseract::PSM_SPARSE_TEXT);
}
TextReader::~TextReader() = default;

std::vector<TextLine> TextReader::read(const cv::Mat& grey, double least_confidence) {
  MOGA_CHECK(!grey.empty() && grey.type() == CV_8UC1, "text reader: expected an 8-bit grey picture");
  // Strokes are thinner than this share of the height; what is wider is background. Without it, tesseract's
  // thresholds follow the scene instead of the text.
  const int stroke = std::max(5, grey.rows / 36 | 1);
  const cv::Mat kernel = cv::getStructuringElement(cv::MORPH_RECT, {stroke, stroke});
  std::vector<TextLine> words;
  for (const int operation : {cv::MORPH_TOPHAT, cv::MORPH_BLACKHAT}) {
    cv::Mat strokes;
    cv::morphologyEx(grey, strokes, operation, kernel);
    cv::Mat page;
    cv::subtract(cv::Scalar(255), strokes * 1.5, page);
    for (TextLine& word : impl_->words(page, least_confidence)) {
      const bool known = std::any_of(words.begin(), words.end(), [&](const TextLine& other) {
        return (other.box & word.box).area() * 2 > std::min(other.box.area(), word.box.area());
      });
      if (!known) {
        words.push_back(std::move(word));
      }
    }
  }
  std::sort(words.begin(), words.end(),
            [](const TextLine& a, const TextLine& b) { return a.box.x < b.box.x; });
  std::vector<TextLine> lines = join_words(words);
  std::erase_if(lines, [](const TextLine& line) { return letters_in(line.text) < 3; });
  return lines;
}

}  // namespace moga
