#include "model/wan_config.h"

#include <fmt/format.h>

#include <filesystem>

#include "base/error.h"

namespace moga {
namespace {

// What the published Wan2.1 pipeline uses, but for the negative prompt: ours, a list of what goes wrong in
// generated films.
ModelConfig wan_1_3b() {
  ModelConfig model;
  model.vae.latents_mean = wan_latents_mean();
  model.vae.latents_std = wan_latents_std();
  model.sampling.solver = "unipc";
  model.sampling.negative =
      "blurry, out of focus, noise, compression artefacts, overexposed, washed-out colours, flickering, "
      "frozen motion, still picture, warped bodies, malformed hands, extra or missing limbs, distorted "
      "faces, "
      "text, subtitles, watermark, logo, picture frame, crowded background";
  return model;
}

ModelConfig wan_14b() {
  ModelConfig model = wan_1_3b();
  model.name = "wan-14b";
  model.dit.dim = 5120;
  model.dit.ffn_dim = 13824;
  model.dit.heads = 40;
  model.dit.layers = 40;
  return model;
}

// Small enough to train on two cores; the same classes as the real ones.
ModelConfig toy() {
  ModelConfig model;
  model.name = "toy";
  model.width = 128;
  model.height = 80;
  model.fps = 8;
  model.dit.dim = 192;
  model.dit.ffn_dim = 768;
  model.dit.freq_dim = 64;
  model.dit.text_dim = 128;
  model.dit.text_len = 32;
  model.dit.heads = 6;
  model.dit.layers = 8;
  model.dit.attention.groups = 4;
  model.vae.dim = 12;
  model.text.vocab_size = 256;
  model.text.dim = 128;
  model.text.dim_attn = 128;
  model.text.dim_ffn = 256;
  model.text.heads = 4;
  model.text.layers = 2;
  model.sampling.steps = 20;
  model.sampling.guidance = 4;
  model.sampling.shift = 3;
  return model;
}

using Maker = ModelConfig (*)();
const std::vector<std::pair<std::string, Maker>>& built_in() {
  static const std::vector<std::pair<std::string, Maker>> kModels = {
      {"wan-1.3b", wan_1_3b}, {"wan-14b", wan_14b}, {"toy", toy}};
  return kModels;
}

void check_positive(const std::string& where, const std::string& name, int64_t value) {
  // The bound keeps products of two sizes far from overflow.
  MOGA_CHECK(value > 0 && value <= int64_t{1} << 24U, "{}: {}: expected 1 to {}, found {}", where, name,
             int64_t{1} << 24U, value);
}

}  // namespace

void check_model_config(const ModelConfig& model, const std::string& where) {
  const auto positive = [&](const std::string& part, const auto& config) {
    std::decay_t<decltype(config)>::visit(config, [&](const char* name, const auto& field, const char*) {
      if constexpr (std::is_same_v<std::decay_t<decltype(field)>, int64_t>) {
        check_positive(where, part + name, field);
      }
    });
  };
  positive("", model);
  positive("dit.", model.dit);
  positive("dit.attention.", model.dit.attention);
  positive("dit.attention.windows.", model.dit.attention.windows);
  positive("vae.", model.vae);
  positive("text.", model.text);
  positive("sampling.", model.sampling);
  MOGA_CHECK(model.width % 16 == 0 && model.height % 16 == 0,
             "{}: expected a picture size divisible by 16, found {}x{}", where, model.width, model.height);
  MOGA_CHECK(model.fps > 0 && model.fps <= 240, "{}: fps: expected a number up to 240, found {}", where,
             model.fps);
  MOGA_CHECK(model.dit.dim % model.dit.heads == 0 && model.dit.head_dim() % 2 == 0,
             "{}: expected dit.dim to be an even multiple of dit.heads, found {} and {}", where,
             model.dit.dim, model.dit.heads);
  MOGA_CHECK(model.dit.freq_dim % 2 == 0, "{}: dit.freq_dim: expected an even number, found {}", where,
             model.dit.freq_dim);
}

const std::vector<double>& wan_latents_mean() {
  static const std::vector<double> kMean = {-0.7571, -0.7089, -0.9113, 0.1075,  -0.1745, 0.9653,
                                            -0.1517, 1.5508,  0.4134,  -0.0715, 0.5517,  -0.3632,
                                            -0.1922, -0.9497, 0.2503,  -0.2921};
  return kMean;
}

const std::vector<double>& wan_latents_std() {
  static const std::vector<double> kStd = {2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
                                           3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160};
  return kStd;
}

ModelConfig model_config(const std::string& name_or_path) {
  std::vector<std::string> names;
  for (const auto& [name, make] : built_in()) {
    if (name == name_or_path) {
      return make();
    }
    names.push_back(name);
  }
  namespace fs = std::filesystem;
  fs::path path = name_or_path;
  std::error_code ignored;
  const bool found = !name_or_path.empty() && fs::exists(path, ignored);
  if (!found) {
    const auto near = nearest_word(name_or_path.substr(0, 100), names);
    fail("unknown model '{}'{}; expected {}, or the path of a model folder or its moga.json", name_or_path,
         near ? ", did you mean '" + *near + "'?" : "", fmt::join(names, ", "));
  }
  if (fs::is_directory(path, ignored)) {
    path /= "moga.json";
    MOGA_CHECK(fs::exists(path, ignored), "{}: the folder holds no model; expected moga.json in it",
               name_or_path);
  }
  ModelConfig model = load_config<ModelConfig>(path);
  check_model_config(model, path.string());
  return model;
}

}  // namespace moga
