// Captions on their way to the transformer: token ids for a text encoder that is trained, embeddings that
// were computed once and lie on disk for one that is frozen.
#pragma once

#include <torch/torch.h>

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "model/model_folder.h"
#include "model/prompt_embeddings.h"

namespace moga {

class CaptionSource {
 public:
  // A trained encoder, which must outlive this.
  CaptionSource(const ModelFolder& model, UmT5 encoder, torch::Device device);
  // A frozen one: loaded when a text is not in `cache`, and freed again by forget_encoder(). At most
  // `memory_gib` of embeddings stay in memory.
  CaptionSource(const ModelFolder& model, const std::filesystem::path& cache, double memory_gib,
                torch::Device device);

  // Rows that the longest of these texts takes; embeds those that the cache lacks.
  int64_t rows(const std::vector<std::string>& texts);
  void forget_encoder() { frozen_encoder_ = nullptr; }

  // What the device needs of some texts, as tensors whose sizes depend on their number and on `rows` alone.
  std::vector<torch::Tensor> inputs(const std::vector<std::string>& texts, int64_t rows);
  // Those tensors -> [texts, rows, text_dim] float32, zero after each text's end. With gradients if trained.
  torch::Tensor embed(const std::vector<torch::Tensor>& inputs);

 private:
  std::vector<torch::Tensor> rows_of(const std::vector<std::string>& texts);

  const ModelFolder& model_;
  torch::Device device_;
  UmT5 trained_encoder_{nullptr};
  std::optional<Tokenizer> tokenizer_;
  TextSource source_;
  UmT5 frozen_encoder_{nullptr};
  std::filesystem::path cache_;
  double room_ = 0;                            // bytes of embeddings that may still be kept
  std::map<std::string, torch::Tensor> kept_;  // [tokens, text_dim]
};

}  // namespace moga
