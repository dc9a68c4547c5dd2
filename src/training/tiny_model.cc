#include "training/tiny_model.h"

#include "base/atomic_file.h"
#include "training/train.h"

namespace moga {

ModelFolder make_tiny_model(const std::filesystem::path& folder) {
  ModelConfig config = model_config("toy");
  config.name = "tiny";
  config.width = 64;
  config.height = 48;
  config.dit.dim = 48;
  config.dit.ffn_dim = 64;
  config.dit.heads = 2;
  config.dit.layers = 2;
  config.dit.freq_dim = 16;
  config.dit.text_dim = 32;
  config.dit.attention.groups = 3;
  config.dit.attention.windows.temporal_group = 3;
  config.vae.dim = 4;
  config.text.dim = 32;
  config.text.dim_attn = 32;
  config.text.dim_ffn = 48;
  config.text.heads = 2;
  config.text.layers = 1;
  config.sampling.steps = 3;
  write_file_atomic(folder / "moga.json", config_to_json(config).dump(2));
  ModelFolder model(folder);
  TrainConfig tokenizer;
  tokenizer.kind = TrainKind::kTokenizer;
  tokenizer.model = folder.string();
  tokenizer.corpus = 500;
  train_toy_tokenizer(tokenizer);
  torch::manual_seed(5);
  model.save_dit(WanDit(config.dit));
  model.save_vae(WanVae(config.vae));
  model.save_text(UmT5(config.text));
  return model;
}

}  // namespace moga
