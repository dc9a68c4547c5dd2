#include "pipeline/random_model.h"

#include <cmath>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/progress.h"
#include "io/safetensors.h"
#include "model/umt5.h"
#include "model/wan_dit.h"
#include "model/wan_vae.h"
#include "model/weights.h"
#include "pipeline/convert.h"
#include "text/tokenizer.h"

namespace moga {

namespace fs = std::filesystem;

namespace {

// Scales as layers begin training with, so that activations neither vanish nor overflow.
torch::Tensor random_weight(const std::string& name, const std::vector<int64_t>& shape,
                            torch::ScalarType dtype, const at::Generator& generator) {
  const bool norm = name.find("norm") != std::string::npos || name.ends_with("gamma");
  if (norm && name.ends_with("bias")) {
    return torch::zeros(shape, dtype);
  }
  if (norm || shape.empty()) {
    return torch::ones(shape, dtype);
  }
  int64_t fan_in = 1;
  for (size_t i = 1; i < shape.size(); ++i) {
    fan_in *= shape[i];
  }
  const double scale = 1 / std::sqrt(static_cast<double>(shape.size() == 1 ? shape[0] : fan_in));
  return torch::empty(shape, dtype).normal_(0, scale, generator);
}

template <typename M, typename C>
void write_part(const C& config, const fs::path& file, torch::ScalarType dtype,
                const at::Generator& generator) {
  const ShapeMap shapes = network_shapes<M>(config);
  std::vector<TensorToWrite> list;
  list.reserve(shapes.size());
  for (const auto& [name, shape] : shapes) {
    list.push_back({name, dtype, shape});
  }
  Progress progress("write " + file.filename().string(), static_cast<int64_t>(list.size()), "tensor");
  write_safetensors(file, std::move(list), [&](const std::string& name) {
    progress.advance();
    return random_weight(name, shapes.at(name), dtype, generator);
  });
  progress.finish();
}

}  // namespace

void write_random_model(const RandomModelRequest& request) {
  const torch::NoGradGuard guard;
  const Tokenizer tokenizer(request.tokenizer);
  check_writable(request.output / "config.json");
  ModelConfig model = request.model;
  model.dit.attention.kind = AttentionKind::kFull;
  if (!request.full_text_encoder) {
    model.text.vocab_size = tokenizer.vocab_size();
    model.text.dim = model.dit.text_dim;
    model.text.dim_attn = 64;
    model.text.dim_ffn = 64;
    model.text.heads = 1;
    model.text.layers = 1;
  }
  MOGA_CHECK(tokenizer.vocab_size() <= model.text.vocab_size, "{} has {} pieces, the text encoder takes {}",
             request.tokenizer.string(), tokenizer.vocab_size(), model.text.vocab_size);
  const auto generator = at::detail::createCPUGenerator(request.seed);
  AtomicFolder folder(request.output);
  const fs::path& root = folder.path();
  write_part<WanDit>(model.dit, root / "diffusion_pytorch_model.safetensors", torch::kBFloat16, generator);
  write_part<WanVae>(model.vae, root / "Wan2.1_VAE.safetensors", torch::kFloat32, generator);
  write_part<UmT5>(model.text, root / "models_t5_umt5-xxl-enc-bf16.safetensors", torch::kBFloat16, generator);
  write_file_atomic(root / "config.json", dit_config_json(model.dit, Naming::kWan).dump(2) + "\n");
  write_file_atomic(root / "google/umt5-xxl/spiece.model", read_file(request.tokenizer));
  folder.commit();
}

}  // namespace moga
