// Sizes of the models. Plain aggregates with one field visitor each; no tensors.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "attention/visual_attention_config.h"
#include "base/config.h"

namespace moga {

// Of a large model's weights (see ModelFolder) and of a plan.
enum class Precision { kF32, kBf16 };
template <>
struct EnumNames<Precision> {
  static constexpr std::array<std::pair<Precision, const char*>, 2> kNames = {
      {{Precision::kF32, "f32"}, {Precision::kBf16, "bf16"}}};
};

// The Wan2.1 diffusion transformer. Defaults are T2V-1.3B.
struct DitConfig {
  int64_t in_channels = 16;
  int64_t out_channels = 16;
  int64_t dim = 1536;
  int64_t ffn_dim = 8960;
  int64_t freq_dim = 256;
  int64_t text_dim = 4096;
  int64_t text_len = 512;  // text rows a caption takes in cross-attention, zero-padded (Wan masks nothing)
  int64_t heads = 12;
  int64_t layers = 30;
  double eps = 1e-6;
  MogaConfig attention;

  int64_t head_dim() const { return dim / heads; }

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("in_channels", s.in_channels, "Latent channels in");
    v("out_channels", s.out_channels, "Latent channels out");
    v("dim", s.dim, "Width C");
    v("ffn_dim", s.ffn_dim, "Width of the feed-forward layer");
    v("freq_dim", s.freq_dim, "Size of the sinusoidal time embedding");
    v("text_dim", s.text_dim, "Width of the text encoder's output");
    v("text_len", s.text_len, "Text rows a caption takes in cross-attention, zero-padded");
    v("heads", s.heads, "Attention heads N");
    v("layers", s.layers, "Transformer blocks");
    v("eps", s.eps, "Epsilon of the norms");
    v("attention", s.attention, "Visual attention");
  }
};

// The Wan2.1 causal video VAE. Stride (4, 8, 8). Defaults are the published one.
struct VaeConfig {
  int64_t dim = 96;
  int64_t z_dim = 16;
  std::vector<int64_t> dim_mult = {1, 2, 4, 4};
  int64_t res_blocks = 2;
  std::vector<double> latents_mean;  // per channel, [z_dim]; empty: zeros
  std::vector<double> latents_std;   // per channel, [z_dim]; empty: ones

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("dim", s.dim, "Base channels");
    v("z_dim", s.z_dim, "Latent channels");
    v("dim_mult", s.dim_mult, "Channel factor of each level");
    v("res_blocks", s.res_blocks, "Residual blocks a level");
    v("latents_mean", s.latents_mean, "Mean of each latent channel over the training data");
    v("latents_std", s.latents_std, "Standard deviation of each latent channel");
  }
};

// The umT5 text encoder. Defaults are umT5-xxl.
struct TextEncoderConfig {
  int64_t vocab_size = 256384;
  int64_t dim = 4096;
  int64_t dim_attn = 4096;
  int64_t dim_ffn = 10240;
  int64_t heads = 64;
  int64_t layers = 24;
  int64_t buckets = 32;
  int64_t max_distance = 128;
  double eps = 1e-6;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("vocab_size", s.vocab_size, "Tokenizer pieces");
    v("dim", s.dim, "Width");
    v("dim_attn", s.dim_attn, "Width of the attention, all heads");
    v("dim_ffn", s.dim_ffn, "Width of the gated feed-forward layer");
    v("heads", s.heads, "Attention heads");
    v("layers", s.layers, "Encoder blocks");
    v("buckets", s.buckets, "Relative-position buckets");
    v("max_distance", s.max_distance, "Distance from which positions share the last bucket");
    v("eps", s.eps, "Epsilon of the norms");
  }
};

struct SamplingDefaults {
  std::string solver = "euler";
  int64_t steps = 50;
  double guidance = 5;
  double shift = 5;
  std::string negative;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("solver", s.solver, "Solver of the flow's ordinary differential equation");
    v("steps", s.steps, "Denoising steps");
    v("guidance", s.guidance, "Classifier-free guidance factor; 1 is off");
    v("shift", s.shift, "Flow shift: how much of the schedule is spent at high noise");
    v("negative", s.negative, "Negative prompt of scripts that name none");
  }
};

// A whole model folder's moga.json.
struct ModelConfig {
  std::string name = "wan-1.3b";
  int64_t width = 832;
  int64_t height = 480;
  double fps = 16;
  DitConfig dit;
  VaeConfig vae;
  TextEncoderConfig text;
  SamplingDefaults sampling;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("name", s.name, "Name of the model");
    v("width", s.width, "Default picture width in pixels");
    v("height", s.height, "Default picture height in pixels");
    v("fps", s.fps, "Frames a second the model was trained on");
    v("dit", s.dit, "Diffusion transformer");
    v("vae", s.vae, "Video VAE");
    v("text", s.text, "Text encoder");
    v("sampling", s.sampling, "Sampling defaults");
  }
};

// The published VAE's latent scale: mean and standard deviation of its 16 channels over the training data.
const std::vector<double>& wan_latents_mean();
const std::vector<double>& wan_latents_std();

// Throws Error, beginning with `where`, on sizes that no model can have.
void check_model_config(const ModelConfig& model, const std::string& where);

// Routed kinds of attention need a router a block.
inline bool has_routers(const MogaConfig& attention) {
  return attention.kind == AttentionKind::kMoga || attention.kind == AttentionKind::kDynamic;
}

// What a model computes with by default: bfloat16 weights where they are many, float32 for toys.
inline Precision default_precision(const DitConfig& dit) {
  return dit.dim < 1024 ? Precision::kF32 : Precision::kBf16;
}

// "wan-1.3b", "wan-14b", "toy", or the path of a moga.json / YAML file or of a folder that holds moga.json.
ModelConfig model_config(const std::string& name_or_path);

}  // namespace moga
