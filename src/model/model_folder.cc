#include "model/model_folder.h"

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/fingerprint.h"
#include "io/safetensors.h"

namespace moga {

namespace fs = std::filesystem;

constexpr const char* kConfigFile = "moga.json";
constexpr const char* kDitFile = "dit.safetensors";
constexpr const char* kVaeFile = "vae.safetensors";
constexpr const char* kTextFile = "text.safetensors";
constexpr const char* kTokenizerFile = "tokenizer.model";

ModelFolder::ModelFolder(fs::path folder) : folder_(std::move(folder)) {
  MOGA_CHECK(fs::is_directory(folder_), "no model folder at {}", folder_.string());
  MOGA_CHECK(fs::exists(part(kConfigFile)), "{} is no model folder: it has no {}", folder_.string(),
             kConfigFile);
  config_ = load_config<ModelConfig>(part(kConfigFile));
}

ModelFolder ModelFolder::open_or_create(const fs::path& folder, const std::string& base) {
  if (!fs::exists(folder / kConfigFile)) {
    write_file_atomic(folder / kConfigFile, config_to_json(model_config(base)).dump(2) + "\n");
  }
  return ModelFolder(folder);
}

void ModelFolder::update_config(const ModelConfig& config) {
  write_file_atomic(part(kConfigFile), config_to_json(config).dump(2) + "\n");
  config_ = config;
}

template <typename M>
static M load_part(M module, const fs::path& file, torch::Device device) {
  MOGA_CHECK(fs::exists(file), "the model lacks {}", file.string());
  load_weights(*module, SafetensorsFile(file).read_all(), file.string());
  module->to(device);
  module->eval();
  return module;
}

WanDit ModelFolder::load_dit(torch::Device device, const MogaConfig* attention) const {
  DitConfig config = config_.dit;
  if (attention == nullptr) {
    return load_part(WanDit(config), part(kDitFile), device);
  }
  config.attention = *attention;
  WanDit dit(config);
  MOGA_CHECK(fs::exists(part(kDitFile)), "the model lacks {}", part(kDitFile).string());
  TensorMap weights = SafetensorsFile(part(kDitFile)).read_all();
  const bool routed = attention->kind == AttentionKind::kMoga || attention->kind == AttentionKind::kDynamic;
  for (auto it = weights.begin(); it != weights.end();) {
    const bool router = it->first.find(".router.") != std::string::npos;
    it = router && !routed ? weights.erase(it) : std::next(it);
  }
  load_weights(*dit, weights, part(kDitFile).string());
  dit->to(device);
  dit->eval();
  return dit;
}

WanVae ModelFolder::load_vae(torch::Device device) const {
  return load_part(WanVae(config_.vae), part(kVaeFile), device);
}

UmT5 ModelFolder::load_text(torch::Device device) const {
  return load_part(UmT5(config_.text), part(kTextFile), device);
}

Tokenizer ModelFolder::load_tokenizer() const {
  Tokenizer tokenizer(part(kTokenizerFile));
  MOGA_CHECK(tokenizer.vocab_size() <= config_.text.vocab_size, "{} has {} pieces, the text encoder takes {}",
             part(kTokenizerFile).string(), tokenizer.vocab_size(), config_.text.vocab_size);
  return tokenizer;
}

void ModelFolder::save_dit(const WanDit& dit) const {
  write_safetensors(part(kDitFile), module_weights(*dit, torch::kFloat16));
}

void ModelFolder::save_vae(const WanVae& vae) {
  write_safetensors(part(kVaeFile), module_weights(*vae, torch::kFloat16));
  ModelConfig config = config_;
  config.vae = vae->config();
  update_config(config);
}

void ModelFolder::save_text(const UmT5& text) const {
  write_safetensors(part(kTextFile), module_weights(*text, torch::kFloat16));
}

void ModelFolder::check_complete() const {
  std::vector<std::string> missing;
  for (const char* file : {kDitFile, kVaeFile, kTextFile, kTokenizerFile}) {
    if (!fs::exists(part(file))) {
      missing.emplace_back(file);
    }
  }
  MOGA_CHECK(missing.empty(), "the model folder {} lacks {}", folder_.string(), fmt::join(missing, ", "));
}

std::string ModelFolder::fingerprint() const {
  std::string text = read_file(part(kConfigFile));
  for (const char* file : {kDitFile, kVaeFile, kTextFile, kTokenizerFile}) {
    if (fs::exists(part(file))) {
      const std::string content = read_file(part(file), size_t{1} << 40U);
      text += fmt::format("{} {} {}\n", file, content.size(), content_hash(content));
    }
  }
  return content_hash(text);
}

std::string ModelFolder::text_fingerprint() const {
  return content_hash(config_to_json(config_.text).dump() + file_fingerprint(part(kTextFile)) +
                      file_fingerprint(part(kTokenizerFile)));
}

std::pair<torch::Tensor, torch::Tensor> tokenize_texts(const Tokenizer& tokenizer,
                                                       const std::vector<std::string>& texts,
                                                       int64_t text_len) {
  std::vector<std::vector<int64_t>> ids;
  size_t rows = 1;
  for (const std::string& text : texts) {
    ids.push_back(tokenizer.encode(text, static_cast<size_t>(text_len)));
    rows = std::max(rows, ids.back().size());
  }
  const auto count = static_cast<int64_t>(texts.size());
  torch::Tensor id_tensor =
      torch::full({count, static_cast<int64_t>(rows)}, tokenizer.pad_id(), torch::kInt64);
  torch::Tensor mask = torch::zeros_like(id_tensor);
  for (int64_t i = 0; i < count; ++i) {
    const auto& row = ids[static_cast<size_t>(i)];
    const auto length = static_cast<int64_t>(row.size());
    id_tensor[i].slice(0, 0, length).copy_(torch::tensor(row, torch::kInt64));
    mask[i].slice(0, 0, length).fill_(1);
  }
  return {id_tensor, mask};
}

torch::Tensor encode_texts(UmT5& encoder, const Tokenizer& tokenizer, const std::vector<std::string>& texts,
                           int64_t text_len) {
  const torch::Device device = encoder->parameters()[0].device();
  auto [ids, mask] = tokenize_texts(tokenizer, texts, text_len);
  mask = mask.to(device);
  return encoder->forward(ids.to(device), mask) * mask.unsqueeze(-1);
}

}  // namespace moga
