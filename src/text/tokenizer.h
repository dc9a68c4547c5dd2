// Sentencepiece tokenizers as the T5 family uses them, and their training on a list of captions.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace moga {

// Prompt cleaning of the Wan pipeline before tokenising: repair_text (text_repair.h), HTML-unescape twice,
// strip, white-space runs to one space. For UTF-8.
std::string clean_prompt(const std::string& text);

class Tokenizer {
 public:
  // Loads a sentencepiece .model file; throws Error naming the file if it is missing or damaged.
  explicit Tokenizer(const std::filesystem::path& model_file);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  // clean_prompt, then ids with the end-of-text id appended, cut to `max_length` ids (the end id stays last).
  // `*truncated`, if given, tells whether anything was cut. Characters that the model lacks become its
  // unknown piece. Throws Error if the text is not UTF-8 or `max_length` is 0.
  std::vector<int64_t> encode(const std::string& text, size_t max_length, bool* truncated = nullptr) const;
  // Special pieces give no text. Throws Error on an id outside the vocabulary.
  std::string decode(const std::vector<int64_t>& ids) const;
  int64_t vocab_size() const;
  int64_t pad_id() const;
  int64_t eos_id() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Trains a byte-pair model (pad 0, eos 1, unk 2, no bos; deterministic) and writes it atomically.
// `vocab_size` is an upper bound: small caption sets get fewer pieces. Throws Error if the captions hold no
// text or are not UTF-8, or if their distinct characters alone need more pieces.
void train_tokenizer(const std::vector<std::string>& captions, int64_t vocab_size,
                     const std::filesystem::path& model_file);

}  // namespace moga
