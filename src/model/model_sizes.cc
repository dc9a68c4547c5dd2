#include "model/model_sizes.h"

#include <nlohmann/json.hpp>

#include "base/atomic_file.h"
#include "base/error.h"

namespace moga {

namespace fs = std::filesystem;

namespace {

constexpr int64_t kWanHeadDim = 128;
constexpr int64_t kPatchPositions = 4;  // latent positions of a token
constexpr int64_t kMaxLayers = 1000;

class Shapes {
 public:
  Shapes(const ShapeMap& shapes, const RecognisedPart& part, const fs::path& file)
      : shapes_(shapes), part_(part), file_(file.string()) {}

  const std::vector<int64_t>* find(const std::string& official) const {
    std::vector<std::string> names = name_aliases(part_.naming, part_.part, official);
    names.insert(names.begin(), name_in(part_.naming, part_.part, official));
    for (const std::string& name : names) {
      if (const auto found = shapes_.find(part_.prefix + name); found != shapes_.end()) {
        return &found->second;
      }
    }
    return nullptr;
  }
  // Dimension `axis` of a tensor that must have `rank` dimensions, none of them zero or beyond reason.
  int64_t size(const std::string& official, size_t rank, size_t axis) const {
    const auto* shape = find(official);
    MOGA_CHECK(shape != nullptr, "{}: no tensor '{}{}', which tells a size of the {}", file_, part_.prefix,
               name_in(part_.naming, part_.part, official), enum_name(part_.part));
    MOGA_CHECK(shape->size() == rank && (*shape)[axis] > 0 && (*shape)[axis] <= int64_t{1} << 24U,
               "{}: '{}' has the shape [{}], expected {} dimensions of sizes that a {} can have", file_,
               official, fmt::join(*shape, ", "), rank, enum_name(part_.part));
    return (*shape)[axis];
  }
  // How many of blocks.0, blocks.1, ... there are.
  int64_t count(const std::string& before, const std::string& after) const {
    int64_t n = 0;
    while (n < kMaxLayers && find(fmt::format("{}{}{}", before, n, after)) != nullptr) {
      ++n;
    }
    return n;
  }

 private:
  const ShapeMap& shapes_;
  const RecognisedPart& part_;
  std::string file_;
};

nlohmann::json read_json(const fs::path& file) {
  if (file.empty()) {
    return nlohmann::json::object();
  }
  auto json = nlohmann::json::parse(read_file(file, size_t{1} << 20U), nullptr, /*allow_exceptions=*/false);
  MOGA_CHECK(json.is_object(), "{}: expected a JSON object", file.string());
  return json;
}

// The first of `keys` that the config has must be the size that the weights show.
void agree(const nlohmann::json& config, const fs::path& file, std::initializer_list<const char*> keys,
           int64_t size) {
  for (const char* key : keys) {
    if (config.contains(key)) {
      MOGA_CHECK(config[key].is_number_integer() && config[key].get<int64_t>() == size,
                 "{}: {} is {}, but the weights beside it have {}", file.string(), key, config[key].dump(),
                 size);
    }
  }
}

template <typename T>
T setting(const nlohmann::json& config, const fs::path& file, std::initializer_list<const char*> keys,
          T fallback) {
  for (const char* key : keys) {
    if (config.contains(key)) {
      MOGA_CHECK(config[key].is_number(), "{}: {}: expected a number, found {}", file.string(), key,
                 config[key].dump());
      return config[key].get<T>();
    }
  }
  return fallback;
}

std::vector<double> vector_setting(const nlohmann::json& config, const fs::path& file, const char* key,
                                   const std::vector<double>& fallback, size_t size) {
  std::vector<double> values = fallback;
  if (config.contains(key)) {
    values.clear();
    for (const auto& value : config[key]) {
      MOGA_CHECK(value.is_number(), "{}: {}: expected numbers", file.string(), key);
      values.push_back(value.get<double>());
    }
  }
  MOGA_CHECK(values.size() == size, "{}: {}: expected {} numbers, found {}", file.string(), key, size,
             values.size());
  return values;
}

}  // namespace

DitConfig infer_dit(const ShapeMap& shapes, const RecognisedPart& part, const fs::path& file,
                    const fs::path& config) {
  const Shapes has(shapes, part, file);
  const nlohmann::json json = read_json(config);
  DitConfig dit;
  MOGA_CHECK(
      has.find("blocks.0.cross_attn.k_img.weight") == nullptr && has.find("img_emb.proj.0.weight") == nullptr,
      "{}: an image-to-video model; only text-to-video models are supported so far", file.string());
  dit.dim = has.size("patch_embedding.weight", 5, 0);
  dit.in_channels = has.size("patch_embedding.weight", 5, 1);
  dit.ffn_dim = has.size("blocks.0.ffn.0.weight", 2, 0);
  dit.freq_dim = has.size("time_embedding.0.weight", 2, 1);
  dit.text_dim = has.size("text_embedding.0.weight", 2, 1);
  dit.out_channels = has.size("head.head.weight", 2, 0) / kPatchPositions;
  dit.layers = has.count("blocks.", ".self_attn.q.weight");
  agree(json, config, {"dim"}, dit.dim);
  agree(json, config, {"ffn_dim"}, dit.ffn_dim);
  agree(json, config, {"freq_dim"}, dit.freq_dim);
  agree(json, config, {"text_dim"}, dit.text_dim);
  agree(json, config, {"in_dim", "in_channels"}, dit.in_channels);
  agree(json, config, {"out_dim", "out_channels"}, dit.out_channels);
  agree(json, config, {"num_layers"}, dit.layers);
  const int64_t fallback = dit.dim % kWanHeadDim == 0 ? dit.dim / kWanHeadDim : 1;
  dit.heads = setting<int64_t>(json, config, {"num_heads", "num_attention_heads"}, fallback);
  MOGA_CHECK(dit.heads > 0 && dit.dim % dit.heads == 0, "{}: {} heads do not divide the width {}",
             config.empty() ? file.string() : config.string(), dit.heads, dit.dim);
  agree(json, config, {"attention_head_dim"}, dit.head_dim());
  dit.eps = setting<double>(json, config, {"eps"}, dit.eps);
  dit.text_len = setting<int64_t>(json, config, {"text_len"}, dit.text_len);
  dit.attention.kind = AttentionKind::kFull;
  if (has.find("blocks.0.self_attn.router.weight") != nullptr) {
    dit.attention.kind = AttentionKind::kMoga;
    dit.attention.groups = has.size("blocks.0.self_attn.router.weight", 2, 0);
  }
  return dit;
}

VaeConfig infer_vae(const ShapeMap& shapes, const RecognisedPart& part, const fs::path& file,
                    const fs::path& config) {
  const Shapes has(shapes, part, file);
  const nlohmann::json json = read_json(config);
  VaeConfig vae;
  vae.dim = has.size("encoder.conv1.weight", 5, 0);
  vae.z_dim = has.size("conv2.weight", 5, 0);
  agree(json, config, {"base_dim"}, vae.dim);
  agree(json, config, {"z_dim"}, vae.z_dim);
  const auto z = static_cast<size_t>(vae.z_dim);
  const bool published = z == wan_latents_mean().size();
  const std::vector<double> zeros(published ? 0 : z, 0.0);
  const std::vector<double> ones(published ? 0 : z, 1.0);
  vae.latents_mean = vector_setting(json, config, "latents_mean", published ? wan_latents_mean() : zeros, z);
  vae.latents_std = vector_setting(json, config, "latents_std", published ? wan_latents_std() : ones, z);
  return vae;
}

TextEncoderConfig infer_text(const ShapeMap& shapes, const RecognisedPart& part, const fs::path& file) {
  const Shapes has(shapes, part, file);
  TextEncoderConfig text;
  text.vocab_size = has.size("token_embedding.weight", 2, 0);
  text.dim = has.size("token_embedding.weight", 2, 1);
  text.dim_attn = has.size("blocks.0.attn.q.weight", 2, 0);
  text.dim_ffn = has.size("blocks.0.ffn.fc1.weight", 2, 0);
  text.buckets = has.size("blocks.0.pos_embedding.embedding.weight", 2, 0);
  text.heads = has.size("blocks.0.pos_embedding.embedding.weight", 2, 1);
  text.layers = has.count("blocks.", ".attn.q.weight");
  return text;
}

}  // namespace moga
