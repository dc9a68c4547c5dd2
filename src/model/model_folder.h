// A model on disk: its configuration and its parts, wherever and however they lie (see docs/models.md). Our
// own folders have
//
//   moga.json  dit.safetensors  vae.safetensors  text.safetensors  tokenizer.model
//
// and folders or files of published models are read as they are; their configuration comes from their shapes.
#pragma once

#include <filesystem>

#include "model/lora.h"
#include "model/model_parts.h"
#include "model/umt5.h"
#include "model/wan_config.h"
#include "model/wan_dit.h"
#include "model/wan_vae.h"
#include "model/weights.h"
#include "text/tokenizer.h"

namespace moga {

class ModelFolder {
 public:
  // Throws Error if there is nothing to be found at the source, or if a moga.json is damaged.
  explicit ModelFolder(ModelSource source);
  // Opens it, or makes it with the sizes of `base` (see model_config) if there is no moga.json yet.
  static ModelFolder open_or_create(const std::filesystem::path& folder, const std::string& base);

  const ModelConfig& config() const { return config_; }
  const std::filesystem::path& path() const { return source_.model; }
  const ModelSource& source() const { return source_; }
  ModelLayout layout() const { return layout_; }
  // Looked up anew each time: parts may have been saved since.
  ModelParts parts() const { return find_model_parts(source_); }
  std::filesystem::path part(const std::string& file) const { return source_.model / file; }

  // Each throws Error naming the file if it is missing, damaged or does not fit the configuration.
  // `attention` replaces the model's attention settings (say, full attention with the same weights: routers
  // are then not loaded). The transformer's and the text encoder's weights are kept in precision(), those of
  // stays_float32() and the VAE in float32. Adapters (ModelSource::loras) are merged into the transformer;
  // what in them fits nothing is logged.
  WanDit load_dit(torch::Device device, const MogaConfig* attention = nullptr) const;
  WanVae load_vae(torch::Device device) const;
  UmT5 load_text(torch::Device device) const;
  Tokenizer load_tokenizer() const;
  Precision precision() const;

  // Into our own kind of folder; throws Error for others. Written atomically, as float16 (half the size; the
  // weights are small numbers).
  void save_dit(const WanDit& dit) const;
  void save_vae(const WanVae& vae);  // also updates the latent scale in moga.json
  void save_text(const UmT5& text) const;
  void update_config(const ModelConfig& config);

  // Throws one Error that names every file that generation needs and does not find.
  void check_complete() const;
  // Names the model in films: vae_fingerprint(), a dash, and a short hash over all other files (size and a
  // sample of the weights), moga.json and the adapters.
  std::string fingerprint() const;
  std::string vae_fingerprint() const;
  // The same of the text encoder and its tokenizer alone: names prompt embeddings.
  std::string text_fingerprint() const;

 private:
  std::filesystem::path own(const char* file) const;  // throws Error unless the folder is of our kind
  FoundPart need(PartKind kind) const;

  ModelSource source_;
  ModelLayout layout_ = ModelLayout::kMoga;
  ModelConfig config_;
};

// The sizes of a published model from its files; throws Error if there is no transformer among `parts`. Parts
// that are missing keep the published sizes.
ModelConfig infer_config(const ModelParts& parts);

// Of a built-in name ("wan-1.3b"), of a moga.json, or of anything that ModelFolder opens.
ModelConfig find_model_config(const std::string& name_or_path);

// Texts -> [texts, rows, text_dim] with zero rows after each text's end; rows is the longest text's.
torch::Tensor encode_texts(UmT5& encoder, const Tokenizer& tokenizer, const std::vector<std::string>& texts,
                           int64_t text_len);

// ids and mask [texts, rows] int64, padded with the tokenizer's pad id.
std::pair<torch::Tensor, torch::Tensor> tokenize_texts(const Tokenizer& tokenizer,
                                                       const std::vector<std::string>& texts,
                                                       int64_t text_len);

}  // namespace moga
