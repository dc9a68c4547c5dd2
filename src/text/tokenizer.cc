#include "text/tokenizer.h"

#include <algorithm>
#include <set>
#include <unordered_map>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/text_util.h"
#include "text/html.h"
#include "text/sentencepiece_api.h"
#include "text/text_repair.h"

namespace moga {

namespace {

// Bytes of the Unicode white-space character at `text[i]`, 0 if there is none: the set that Python's \s has.
size_t space_bytes(std::string_view text, size_t i) {
  const auto c = static_cast<unsigned char>(text[i]);
  if (c == ' ' || (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x1F)) {
    return 1;
  }
  const auto starts = [&](std::string_view bytes) { return text.substr(i, bytes.size()) == bytes; };
  if (starts("\xC2\xA0") || starts("\xC2\x85")) {  // no-break space, next line
    return 2;
  }
  if (starts("\xE1\x9A\x80") || starts("\xE2\x81\x9F") || starts("\xE3\x80\x80") || starts("\xE2\x80\xA8") ||
      starts("\xE2\x80\xA9") ||
      starts("\xE2\x80\xAF")) {  // ogham, mathematical, ideographic; line, paragraph, narrow
    return 3;
  }
  if (starts("\xE2\x80") && i + 2 < text.size()) {  // U+2000..U+200A
    const auto last = static_cast<unsigned char>(text[i + 2]);
    return last >= 0x80 && last <= 0x8A ? 3 : 0;
  }
  return 0;
}

}  // namespace

std::string clean_prompt(const std::string& text) {
  const std::string plain = html_unescape(html_unescape(repair_text(text)));
  std::string out;
  bool space = false;
  for (size_t i = 0; i < plain.size();) {
    if (const size_t bytes = space_bytes(plain, i); bytes > 0) {
      space = !out.empty();
      i += bytes;
      continue;
    }
    if (space) {
      out.push_back(' ');
      space = false;
    }
    out.push_back(plain[i++]);
  }
  return out;
}

struct Tokenizer::Impl {
  std::unique_ptr<PieceModel> model = sentencepiece_api().make_model();
};

Tokenizer::Tokenizer(const std::filesystem::path& model_file) : impl_(std::make_unique<Impl>()) {
  const std::string bytes = read_file(model_file);
  const std::string problem = impl_->model->load(bytes);
  MOGA_CHECK(problem.empty() && impl_->model->size() > 0, "{}: not a sentencepiece model (damaged?)",
             model_file.string());
  MOGA_CHECK(impl_->model->eos_id() >= 0, "{}: the model has no end-of-text piece, which T5 encoders need",
             model_file.string());
}

Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

std::vector<int64_t> Tokenizer::encode(const std::string& text, size_t max_length, bool* truncated) const {
  MOGA_CHECK(max_length >= 1, "expected room for at least the end-of-text token, found a length of 0");
  MOGA_CHECK(is_utf8(text), "the text to encode is not valid UTF-8");
  std::vector<int> pieces;
  const std::string problem = impl_->model->encode(clean_prompt(text), &pieces);
  MOGA_CHECK(problem.empty(), "cannot tokenise the text: {}", problem);
  if (truncated != nullptr) {
    *truncated = pieces.size() + 1 > max_length;
  }
  pieces.resize(std::min(pieces.size(), max_length - 1));
  pieces.push_back(impl_->model->eos_id());
  return {pieces.begin(), pieces.end()};
}

std::string Tokenizer::decode(const std::vector<int64_t>& ids) const {
  std::vector<int> pieces;
  for (const int64_t id : ids) {
    MOGA_CHECK(id >= 0 && id < vocab_size(), "token id {} is outside the vocabulary of {}", id, vocab_size());
    pieces.push_back(static_cast<int>(id));
  }
  std::string text;
  const std::string problem = impl_->model->decode(pieces, &text);
  MOGA_CHECK(problem.empty(), "cannot decode the token ids: {}", problem);
  return text;
}

int64_t Tokenizer::vocab_size() const {
  return impl_->model->size();
}
int64_t Tokenizer::pad_id() const {
  return impl_->model->pad_id();
}
int64_t Tokenizer::eos_id() const {
  return impl_->model->eos_id();
}

namespace {

// Distinct characters (bytes that begin one), which the model needs one piece each for.
int64_t distinct_characters(const std::vector<std::string>& lines) {
  std::set<std::string> characters;
  for (const std::string& line : lines) {
    for (size_t i = 0; i < line.size();) {
      size_t end = i + 1;
      while (end < line.size() && (static_cast<unsigned char>(line[end]) & 0xC0U) == 0x80U) {
        ++end;
      }
      characters.insert(line.substr(i, end - i));
      i = end;
    }
  }
  return static_cast<int64_t>(characters.size());
}

}  // namespace

void train_tokenizer(const std::vector<std::string>& captions, int64_t vocab_size,
                     const std::filesystem::path& model_file) {
  constexpr int64_t kMaxVocab = 1 << 20;
  std::vector<std::string> lines;
  for (const std::string& caption : captions) {
    MOGA_CHECK(is_utf8(caption), "caption {} of the tokenizer's training set is not valid UTF-8",
               lines.size() + 1);
    std::string line = clean_prompt(caption);
    if (!line.empty()) {
      lines.push_back(std::move(line));
    }
  }
  MOGA_CHECK(!lines.empty(), "expected captions to train a tokenizer on, found none with text");
  constexpr int64_t kSpecialPieces = 4;  // pad, end, unknown, and the word-boundary mark
  const int64_t needed = distinct_characters(lines) + kSpecialPieces;
  MOGA_CHECK(vocab_size >= needed && vocab_size <= kMaxVocab,
             "vocabulary size: expected {} to {} (the captions have {} distinct characters), found {}",
             needed, kMaxVocab, needed - kSpecialPieces, vocab_size);

  std::string model;
  // Byte pairs: small caption sets get whole words (a unigram model's pruning left single letters, 55 pieces
  // for a caption of 20 words). One thread, so that equal captions give equal files. No byte
  // fallback: its 256 pieces would be the whole of a small vocabulary; unknown characters become <unk>.
  const std::unordered_map<std::string, std::string> settings = {
      {"model_type", "bpe"},
      {"vocab_size", std::to_string(vocab_size)},
      {"hard_vocab_limit", "false"},
      {"character_coverage", "1.0"},
      {"pad_id", "0"},
      {"eos_id", "1"},
      {"unk_id", "2"},
      {"bos_id", "-1"},
      {"pad_piece", "<pad>"},
      {"num_threads", "1"},
      {"shuffle_input_sentence", "false"},
      {"input_sentence_size", "0"},
      {"max_sentence_length", "1000000"},
      {"minloglevel", "4"},
  };
  const std::string problem = sentencepiece_api().train(lines, settings, &model);
  MOGA_CHECK(problem.empty() && !model.empty(), "cannot train the tokenizer: {}", problem);
  write_file_atomic(model_file, model);
}

}  // namespace moga
