#include "model/model_folder.h"

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/fingerprint.h"
#include "base/log.h"
#include "io/safetensors.h"
#include "model/model_sizes.h"

namespace moga {

namespace fs = std::filesystem;

constexpr const char* kConfigFile = "moga.json";
constexpr const char* kDitFile = "dit.safetensors";
constexpr const char* kVaeFile = "vae.safetensors";
constexpr const char* kTextFile = "text.safetensors";

namespace {

// A published model of this width and depth, if there is one.
ModelConfig published(const DitConfig& dit) {
  for (const char* name : {"wan-1.3b", "wan-14b"}) {
    ModelConfig model = model_config(name);
    if (model.dit.dim == dit.dim && model.dit.layers == dit.layers) {
      return model;
    }
  }
  ModelConfig model = model_config("wan-1.3b");
  model.name = "wan";
  return model;
}

}  // namespace

ModelConfig infer_config(const ModelParts& parts) {
  const auto dit = parts.part(PartKind::kDit);
  MOGA_CHECK(dit.has_value(),
             "{} holds no model: neither moga.json nor a Wan transformer's weights (docs/models.md says how "
             "files are "
             "laid out)",
             parts.folder.string());
  const DitConfig sizes =
      infer_dit(checkpoint_shapes(Checkpoint(dit->file)), dit->what, dit->file, dit->config);
  ModelConfig config = published(sizes);
  config.dit = sizes;
  if (const auto vae = parts.part(PartKind::kVae)) {
    config.vae = infer_vae(checkpoint_shapes(Checkpoint(vae->file)), vae->what, vae->file, vae->config);
  }
  if (const auto text = parts.part(PartKind::kText)) {
    config.text = infer_text(checkpoint_shapes(Checkpoint(text->file)), text->what, text->file);
  }
  check_model_config(config, dit->file.string());
  return config;
}

ModelConfig find_model_config(const std::string& name_or_path) {
  const fs::path path = name_or_path;
  std::error_code ignored;
  const bool folder = fs::is_directory(path, ignored) && !fs::exists(path / kConfigFile, ignored);
  const bool weights = fs::is_regular_file(path, ignored) &&
                       (path.extension() == ".safetensors" || name_or_path.ends_with(".index.json") ||
                        path.extension() == ".pth");
  return folder || weights ? ModelFolder(path).config() : model_config(name_or_path);
}

ModelFolder::ModelFolder(ModelSource source) : source_(std::move(source)) {
  const ModelParts found = parts();
  layout_ = found.layout;
  config_ = layout_ == ModelLayout::kMoga ? load_config<ModelConfig>(own(kConfigFile)) : infer_config(found);
}

fs::path ModelFolder::own(const char* file) const {
  MOGA_CHECK(layout_ == ModelLayout::kMoga, "{} is a {}; expected a folder with {} (see `moga convert`)",
             source_.model.string(), enum_name(layout_), kConfigFile);
  return source_.model / file;
}

FoundPart ModelFolder::need(PartKind kind) const {
  const ModelParts found = parts();
  const auto part = found.part(kind);
  MOGA_CHECK(part || found.unreadable.empty(), "{} lacks the {}, unless it is in a damaged file: {}",
             source_.model.string(), enum_name(kind), fmt::join(found.unreadable, "; "));
  MOGA_CHECK(part.has_value(), "{} lacks the {}{}", source_.model.string(), enum_name(kind),
             kind == PartKind::kVae    ? "; name its file with --vae"
             : kind == PartKind::kText ? "; name its file with --text-encoder"
                                       : "");
  return *part;
}

ModelFolder ModelFolder::open_or_create(const fs::path& folder, const std::string& base) {
  if (!fs::exists(folder / kConfigFile)) {
    write_file_atomic(folder / kConfigFile, config_to_json(model_config(base)).dump(2) + "\n");
  }
  return ModelFolder(folder);
}

void ModelFolder::update_config(const ModelConfig& config) {
  write_file_atomic(own(kConfigFile), config_to_json(config).dump(2) + "\n");
  config_ = config;
}

Precision ModelFolder::precision() const {
  return source_.precision.value_or(default_precision(config_.dit));
}

template <typename M, typename C>
static M load_part(const C& config, const FoundPart& part, torch::Device device, WeightLoad how) {
  M module = [&] {
    const BareWeights bare;
    return M(config);
  }();
  how.part = part.what;
  load_checkpoint(*module, Checkpoint(part.file), how);
  module->to(device);
  module->eval();
  return module;
}

WanDit ModelFolder::load_dit(torch::Device device, const MogaConfig* attention) const {
  const FoundPart part = need(PartKind::kDit);
  DitConfig config = config_.dit;
  WeightLoad how;
  if (attention != nullptr) {
    config.attention = *attention;
  }
  const bool routed = has_routers(config.attention);
  MOGA_CHECK(
      !routed || has_routers(config_.dit.attention),
      "{} has no routers, which attention '{}' needs: make them with `moga convert`, or use --attention full "
      "or static",
      part.file.string(), enum_name(config.attention.kind));
  if (!routed) {
    how.skip = [](const std::string& name) { return name.find(".router.") != std::string::npos; };
  }
  const bool narrow = precision() == Precision::kBf16;
  how.dtype = [narrow](const std::string& name) {
    return narrow && !stays_float32(name) ? torch::kBFloat16 : torch::kFloat32;
  };
  LoraSet loras;
  if (!source_.loras.empty()) {
    loras = LoraSet(source_.loras, network_shapes<WanDit>(config));
    for (const LoraFile& file : loras.files()) {
      info("{}: {} weights changed, strength {}", file.checkpoint->path().string(), file.changes.size(),
           file.strength);
      if (!file.unmatched.empty()) {
        spdlog::warn("{}: {} tensors fit nothing in the transformer and are not used, such as {}",
                     file.checkpoint->path().string(), file.unmatched.size(), file.unmatched.front());
      }
    }
    how.adjusts = [&](const std::string& name) { return loras.changes(name); };
    how.adjust = [&](const std::string& name, torch::Tensor& weight) { loras.add_to(name, weight); };
  }
  return load_part<WanDit>(config, part, device, how);
}

WanVae ModelFolder::load_vae(torch::Device device) const {
  WeightLoad how;
  how.res_blocks = config_.vae.res_blocks;
  how.dtype = [](const std::string&) { return torch::kFloat32; };
  return load_part<WanVae>(config_.vae, need(PartKind::kVae), device, how);
}

UmT5 ModelFolder::load_text(torch::Device device) const {
  WeightLoad how;
  const bool narrow = precision() == Precision::kBf16;
  how.dtype = [narrow](const std::string&) { return narrow ? torch::kBFloat16 : torch::kFloat32; };
  return load_part<UmT5>(config_.text, need(PartKind::kText), device, how);
}

Tokenizer ModelFolder::load_tokenizer() const {
  const fs::path file = parts().tokenizer;
  MOGA_CHECK(!file.empty(), "{} lacks the tokenizer (spiece.model); name its file with --tokenizer",
             source_.model.string());
  Tokenizer tokenizer(file);
  MOGA_CHECK(tokenizer.vocab_size() <= config_.text.vocab_size, "{} has {} pieces, the text encoder takes {}",
             file.string(), tokenizer.vocab_size(), config_.text.vocab_size);
  return tokenizer;
}

void ModelFolder::save_dit(const WanDit& dit) const {
  write_safetensors(own(kDitFile), module_weights(*dit, torch::kFloat16));
}

void ModelFolder::save_vae(const WanVae& vae) {
  write_safetensors(own(kVaeFile), module_weights(*vae, torch::kFloat16));
  ModelConfig config = config_;
  config.vae = vae->config();
  update_config(config);
}

void ModelFolder::save_text(const UmT5& text) const {
  write_safetensors(own(kTextFile), module_weights(*text, torch::kFloat16));
}

void ModelFolder::check_complete() const {
  const ModelParts found = parts();
  std::vector<std::string> missing;
  for (const PartKind kind : {PartKind::kDit, PartKind::kVae, PartKind::kText}) {
    if (!found.part(kind)) {
      missing.push_back("the " + enum_name(kind));
    }
  }
  if (found.tokenizer.empty()) {
    missing.emplace_back("the tokenizer");
  }
  MOGA_CHECK(missing.empty() || found.unreadable.empty(), "{} lacks {}, unless it is in a damaged file: {}",
             source_.model.string(), fmt::join(missing, ", "), fmt::join(found.unreadable, "; "));
  MOGA_CHECK(missing.empty(), "{} lacks {} (docs/models.md says how files are laid out)",
             source_.model.string(), fmt::join(missing, ", "));
}

static std::string files_text(const std::optional<FoundPart>& part) {
  std::string text;
  if (part) {
    for (const fs::path& file : Checkpoint(part->file).files()) {
      text += fmt::format("{} {}\n", fs::file_size(file), file_fingerprint(file));
    }
  }
  return text;
}

std::string ModelFolder::vae_fingerprint() const {
  return content_hash(config_to_json(config_.vae).dump() + files_text(parts().part(PartKind::kVae)));
}

std::string ModelFolder::fingerprint() const {
  const ModelParts found = parts();
  std::string text = config_to_json(config_).dump();
  for (const PartKind kind : {PartKind::kDit, PartKind::kText}) {
    text += files_text(found.part(kind));
  }
  if (!found.tokenizer.empty()) {
    text += file_fingerprint(found.tokenizer);
  }
  for (const LoraChoice& lora : source_.loras) {
    text += fmt::format("{} {}\n", lora.strength, file_fingerprint(lora.file));
  }
  text += enum_name(precision());
  return vae_fingerprint() + "-" + content_hash(text);
}

std::string ModelFolder::text_fingerprint() const {
  const ModelParts found = parts();
  std::string text = config_to_json(config_.text).dump() + files_text(found.part(PartKind::kText));
  if (!found.tokenizer.empty()) {
    text += file_fingerprint(found.tokenizer);
  }
  return content_hash(text + enum_name(precision()));
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
