// libmoga_sentencepiece.so: the only code that links libsentencepiece (see text/sentencepiece_api.h).
#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include "text/sentencepiece_api.h"

namespace moga {
namespace {

std::string error_text(const sentencepiece::util::Status& status) {
  return status.ok() ? "" : status.ToString();
}

class Model : public PieceModel {
 public:
  std::string load(const std::string& bytes) override {
    return error_text(processor_.LoadFromSerializedProto(bytes));
  }
  std::string encode(const std::string& text, std::vector<int>* ids) const override {
    return error_text(processor_.Encode(text, ids));
  }
  std::string decode(const std::vector<int>& ids, std::string* text) const override {
    return error_text(processor_.Decode(ids, text));
  }
  int size() const override { return processor_.GetPieceSize(); }
  int pad_id() const override { return processor_.pad_id(); }
  int eos_id() const override { return processor_.eos_id(); }

 private:
  sentencepiece::SentencePieceProcessor processor_;
};

class Lines : public sentencepiece::SentenceIterator {
 public:
  explicit Lines(const std::vector<std::string>& lines) : lines_(lines) {}
  bool done() const override { return next_ >= lines_.size(); }
  void Next() override { ++next_; }
  const std::string& value() const override { return lines_[next_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  const std::vector<std::string>& lines_;
  size_t next_ = 0;
};

class Api : public SentencePieceApi {
 public:
  std::unique_ptr<PieceModel> make_model() const override { return std::make_unique<Model>(); }
  std::string train(const std::vector<std::string>& lines,
                    const std::unordered_map<std::string, std::string>& settings,
                    std::string* model) const override {
    Lines iterator(lines);
    return error_text(sentencepiece::SentencePieceTrainer::Train(settings, &iterator, model));
  }
};

}  // namespace
}  // namespace moga

extern "C" __attribute__((visibility("default"))) const moga::SentencePieceApi* moga_sentencepiece_api() {
  static const moga::Api api;
  return &api;
}
