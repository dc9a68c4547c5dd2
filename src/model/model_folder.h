// A model folder: moga.json with all sizes, and the parts' weights in safetensors.
//
//   moga.json  dit.safetensors  vae.safetensors  text.safetensors  tokenizer.model
#pragma once

#include <filesystem>

#include "model/umt5.h"
#include "model/wan_config.h"
#include "model/wan_dit.h"
#include "model/wan_vae.h"
#include "model/weights.h"
#include "text/tokenizer.h"

namespace moga {

class ModelFolder {
 public:
  // Opens an existing folder; throws Error if moga.json is missing or damaged.
  explicit ModelFolder(std::filesystem::path folder);
  // Opens it, or makes it with the sizes of `base` (see model_config) if there is no moga.json yet.
  static ModelFolder open_or_create(const std::filesystem::path& folder, const std::string& base);

  const ModelConfig& config() const { return config_; }
  const std::filesystem::path& path() const { return folder_; }
  std::filesystem::path part(const std::string& file) const { return folder_ / file; }

  // Each throws Error naming the file if it is missing, damaged or does not fit moga.json. `attention`
  // replaces the folder's attention settings (say, full attention with the same weights: routers are then not
  // loaded).
  WanDit load_dit(torch::Device device, const MogaConfig* attention = nullptr) const;
  WanVae load_vae(torch::Device device) const;
  UmT5 load_text(torch::Device device) const;
  Tokenizer load_tokenizer() const;

  // Written atomically, as float16 (half the size; the weights are small numbers).
  void save_dit(const WanDit& dit) const;
  void save_vae(const WanVae& vae);  // also updates the latent scale in moga.json
  void save_text(const UmT5& text) const;
  void update_config(const ModelConfig& config);

  // Throws one Error that names every file that generation needs and does not find.
  void check_complete() const;
  // A short hash over all files (name, size, content of moga.json, a sample of the weights): names the model
  // in films.
  std::string fingerprint() const;
  // The same of the text encoder and its tokenizer alone: names prompt embeddings.
  std::string text_fingerprint() const;

 private:
  std::filesystem::path folder_;
  ModelConfig config_;
};

// Texts -> [texts, rows, text_dim] with zero rows after each text's end; rows is the longest text's.
torch::Tensor encode_texts(UmT5& encoder, const Tokenizer& tokenizer, const std::vector<std::string>& texts,
                           int64_t text_len);

// ids and mask [texts, rows] int64, padded with the tokenizer's pad id.
std::pair<torch::Tensor, torch::Tensor> tokenize_texts(const Tokenizer& tokenizer,
                                                       const std::vector<std::string>& texts,
                                                       int64_t text_len);

}  // namespace moga
