#include "training/captions.h"

#include "attention/upload.h"
#include "base/error.h"
#include "base/progress.h"

namespace moga {

CaptionSource::CaptionSource(const ModelFolder& model, UmT5 encoder, torch::Device device)
    : model_(model),
      device_(device),
      trained_encoder_(std::move(encoder)),
      tokenizer_(model.load_tokenizer()) {}

CaptionSource::CaptionSource(const ModelFolder& model, const std::filesystem::path& cache, double memory_gib,
                             torch::Device device)
    : model_(model), device_(device), cache_(cache), room_(memory_gib * 1024 * 1024 * 1024) {
  source_.fingerprint = model.text_fingerprint();
  source_.text_len = model.config().dit.text_len;
  source_.load_tokenizer = [this] { return model_.load_tokenizer(); };
  source_.load_encoder = [this] {
    if (!frozen_encoder_) {
      frozen_encoder_ = model_.load_text(device_);
    }
    return frozen_encoder_;
  };
}

int64_t CaptionSource::rows(const std::vector<std::string>& texts) {
  int64_t most = 1;
  if (trained_encoder_) {
    for (const std::string& text : texts) {
      const auto ids = tokenizer_->encode(text, static_cast<size_t>(model_.config().dit.text_len));
      most = std::max(most, static_cast<int64_t>(ids.size()));
    }
    return most;
  }
  constexpr size_t kAtOnce = 64;  // embeddings of so many texts are in memory beside those that are kept
  Progress progress("embed captions", static_cast<int64_t>(texts.size()), "text");
  for (size_t begin = 0; begin < texts.size(); begin += kAtOnce) {
    const size_t end = std::min(texts.size(), begin + kAtOnce);
    for (const torch::Tensor& embedding : rows_of({texts.begin() + static_cast<std::ptrdiff_t>(begin),
                                                   texts.begin() + static_cast<std::ptrdiff_t>(end)})) {
      most = std::max(most, embedding.size(0));
    }
    progress.advance(static_cast<int64_t>(end - begin));
  }
  return most;
}

std::vector<torch::Tensor> CaptionSource::rows_of(const std::vector<std::string>& texts) {
  std::vector<std::string> unknown;
  for (const std::string& text : texts) {
    if (kept_.count(text) == 0) {
      unknown.push_back(text);
    }
  }
  std::map<std::string, torch::Tensor> read;
  const auto embeddings = embed_texts(source_, unknown, cache_, device_);
  for (size_t i = 0; i < unknown.size(); ++i) {
    const torch::Tensor& rows = embeddings[i].rows_RT;
    read[unknown[i]] = rows;
    const auto bytes = static_cast<double>(rows.numel()) * static_cast<double>(rows.element_size());
    if (kept_.count(unknown[i]) == 0 && bytes <= room_) {
      room_ -= bytes;
      kept_.emplace(unknown[i], rows);
    }
  }
  std::vector<torch::Tensor> found;
  for (const std::string& text : texts) {
    const auto kept = kept_.find(text);
    found.push_back(kept != kept_.end() ? kept->second : read.at(text));
  }
  return found;
}

std::vector<torch::Tensor> CaptionSource::inputs(const std::vector<std::string>& texts, int64_t rows) {
  const auto count = static_cast<int64_t>(texts.size());
  if (trained_encoder_) {
    const auto longs = torch::TensorOptions().dtype(torch::kInt64);
    const torch::Tensor ids = torch::full({count, rows}, tokenizer_->pad_id(), longs);
    const torch::Tensor mask = torch::zeros({count, rows}, longs);
    for (int64_t i = 0; i < count; ++i) {
      const auto row = tokenizer_->encode(texts[static_cast<size_t>(i)], static_cast<size_t>(rows));
      const auto length = static_cast<int64_t>(row.size());
      ids[i].slice(0, 0, length).copy_(torch::tensor(row, torch::kInt64));
      mask[i].slice(0, 0, length).fill_(1);
    }
    return {upload(ids, device_), upload(mask, device_)};
  }
  const std::vector<torch::Tensor> found = rows_of(texts);
  const torch::Tensor padded = torch::zeros({count, rows, model_.config().dit.text_dim});
  for (int64_t i = 0; i < count; ++i) {
    const torch::Tensor& text = found[static_cast<size_t>(i)];
    const int64_t length = std::min(rows, text.size(0));
    padded[i].slice(0, 0, length).copy_(text.slice(0, 0, length));
  }
  return {upload(padded, device_)};
}

torch::Tensor CaptionSource::embed(const std::vector<torch::Tensor>& inputs) {
  if (trained_encoder_) {
    return trained_encoder_->forward(inputs[0], inputs[1]) * inputs[1].unsqueeze(-1);
  }
  return inputs[0];
}

}  // namespace moga
