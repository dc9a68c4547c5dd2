// What `moga train` reads. One field visitor drives parsing, checks and --explain.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "attention/router.h"
#include "base/config.h"
#include "data/film_source.h"
#include "diffusion/flow.h"

namespace moga {

enum class TrainKind { kTokenizer, kVae, kDit, kJudge };
template <>
struct EnumNames<TrainKind> {
  static constexpr std::array<std::pair<TrainKind, const char*>, 4> kNames = {
      {{TrainKind::kTokenizer, "tokenizer"},
       {TrainKind::kVae, "vae"},
       {TrainKind::kDit, "dit"},
       {TrainKind::kJudge, "judge"}}};
};

enum class TrainPrecision { kFloat32, kBfloat16 };
template <>
struct EnumNames<TrainPrecision> {
  static constexpr std::array<std::pair<TrainPrecision, const char*>, 2> kNames = {
      {{TrainPrecision::kFloat32, "float32"}, {TrainPrecision::kBfloat16, "bfloat16"}}};
};

// Films of one size and length. A film goes to the bucket whose shape is nearest to its own, among those the
// one with the most latent frames that it can fill.
struct BucketConfig {
  int64_t width = 0;  // 0: the model's
  int64_t height = 0;
  int64_t latent_frames = 8;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("width", s.width, "Picture width in pixels, a multiple of 16; 0: the model's");
    v("height", s.height, "Picture height in pixels, a multiple of 16; 0: the model's");
    v("latent_frames", s.latent_frames, "Latent frames of a film that are used (the first ones)");
  }
};

struct StageConfig {
  std::string name = "stage";
  int64_t steps = 1000;
  int64_t batch = 16;
  double learning_rate = 3e-4;
  int64_t warmup = 100;   // steps of linear warm-up at the stage's start
  double final_rate = 1;  // the rate falls by a half cosine to this share of learning_rate at the stage's end
  int64_t accumulate = 1;             // parts that a step's batch is computed in, one after another
  int64_t latent_frames = 8;          // the films' first latent frames are used (exact, as the VAE is causal)
  std::vector<BucketConfig> buckets;  // dit; empty: one of the model's size and latent_frames
  std::optional<DataConfig> data;     // absent: the run's

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("name", s.name, "Name in logs");
    v("steps", s.steps, "Optimiser steps");
    v("batch", s.batch, "Films a step");
    v("learning_rate", s.learning_rate, "AdamW learning rate");
    v("warmup", s.warmup, "Steps of linear warm-up at the stage's start");
    v("final_rate", s.final_rate,
      "Share of the learning rate left at the stage's end (half cosine); 1 is constant");
    v("accumulate", s.accumulate,
      "Parts that a step's batch is computed in, one after another: memory of one part, the same step");
    v("latent_frames", s.latent_frames, "Latent frames of a film that are used (the first ones)");
    v("buckets", s.buckets,
      "dit: sizes and lengths that films are sorted into, each step takes one; empty: one bucket, the "
      "model's size and "
      "latent_frames");
    v("data", s.data, "Films of this stage; absent: those of the run");
  }
};

enum class TrainedPart { kFull, kLora, kRouter };
template <>
struct EnumNames<TrainedPart> {
  static constexpr std::array<std::pair<TrainedPart, const char*>, 3> kNames = {
      {{TrainedPart::kFull, "full"}, {TrainedPart::kLora, "lora"}, {TrainedPart::kRouter, "router"}}};
};

struct LoraConfig {
  int64_t rank = 16;
  double alpha = 16;
  std::vector<std::string> targets = {"q", "k", "v", "o"};
  bool routers = true;
  std::string file;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("rank", s.rank, "Rank of the adapters");
    v("alpha", s.alpha, "The adapters' product is scaled by alpha / rank");
    v("targets", s.targets,
      "Linear layers that get an adapter, by the end of their names: q is every block's q of both "
      "attentions, "
      "self_attn.q only one of them, ffn.0 the feed-forward layer's first");
    v("routers", s.routers,
      "Also train the routers, whole; they are saved as differences beside the adapters");
    v("file", s.file, "Where the adapter goes; empty: WORK/lora.safetensors");
  }
};

struct ValidationConfig {
  int64_t every = 0;
  int64_t films = 16;
  int64_t latent_frames = 8;
  std::vector<double> levels = {0.1, 0.3, 0.5, 0.7, 0.9};
  std::optional<DataConfig> data;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("every", s.every, "Steps between measurements, and one at the end; 0: none");
    v("films", s.films, "Films that are measured, the first of data");
    v("latent_frames", s.latent_frames, "Latent frames of a film that are used");
    v("levels", s.levels,
      "Noise levels, each between 0 and 1; every one is measured on all films with fixed noise");
    v("data", s.data, "Films that training does not see");
  }
};

struct SamplesConfig {
  int64_t every = 0;
  std::vector<std::string> scripts;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("every", s.every, "Steps between sample films, and one at the end; 0: none");
    v("scripts", s.scripts, "Film scripts; the films go to WORK/samples");
  }
};

struct TrainConfig {
  TrainKind kind = TrainKind::kDit;
  std::string model = "out/toy/model";  // model folder: read for the frozen parts, gets the result
  std::string base = "toy";             // sizes of a new model folder: a built-in name or a moga.json
  std::string work = "out/toy/work";    // checkpoints, metrics
  std::string cache;                    // encoded films and captions; empty: WORK/cache
  std::string start_from;               // model folder whose trained part to start from; empty: fresh weights
  uint64_t seed = 1;
  DataConfig data;
  std::vector<StageConfig> stages = {StageConfig{}};
  double weight_decay = 0.01;
  double beta2 = 0.99;
  double clip_norm = 1;
  double ema = 0.999;
  TrainPrecision precision = TrainPrecision::kFloat32;
  bool cuda_graph = true;
  int64_t checkpoint_every = 500;
  int64_t keep_checkpoints = 2;
  double spike_factor = 10;
  int64_t max_skipped = 10;
  int64_t log_every = 20;

  // dit
  bool recompute = false;
  bool train_text = false;  // also train the text encoder (the toy has no pretrained one)
  NoiseLevels noise = NoiseLevels::kLogitNormal;
  double noise_shift = 1;
  double caption_dropout = 0.1;
  BalanceForm balance_form = BalanceForm::kSwitch;
  double balance_weight = 0.1;
  TrainedPart trained = TrainedPart::kFull;
  LoraConfig lora;
  ValidationConfig validation;
  SamplesConfig samples;
  double memory_gib = 4;
  // vae
  int64_t crop = 0;  // square crop in pixels, a multiple of 16; 0 is the whole picture
  double kl_weight = 1e-5;
  double l1_weight = 1;
  bool decoder_only = false;  // keep the encoder, and so the latents that a diffusion transformer knows
  // tokenizer
  int64_t vocab_size = 256;
  int64_t corpus = 20000;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("kind", s.kind, "What to train: tokenizer, vae, dit or judge");
    v("model", s.model, "Model folder: read for the frozen parts, gets the result");
    v("base", s.base, "Sizes of a new model folder: toy, wan-1.3b, wan-14b or a moga.json");
    v("work", s.work, "Folder for checkpoints, metrics and sample films");
    v("cache", s.cache,
      "Folder where encoded films and captions are kept, by content, which runs may share; empty: "
      "WORK/cache");
    v("start_from", s.start_from,
      "Model folder whose weights to start from (fine-tuning); empty: fresh weights");
    v("seed", s.seed, "Seed of weights, noise and data order");
    v("data", s.data, "Training films");
    v("stages", s.stages, "Stages, one after another (short films first)");
    v("weight_decay", s.weight_decay, "AdamW weight decay");
    v("beta2", s.beta2, "AdamW beta2");
    v("clip_norm", s.clip_norm, "Gradients are scaled down to this norm");
    v("ema", s.ema, "Decay of the moving average of the weights that is saved");
    v("precision", s.precision,
      "float32, or bfloat16: products and attention in bfloat16, weights and sums in float32");
    v("cuda_graph", s.cuda_graph,
      "On a GPU: replay each stage's step from a CUDA graph, which spares the time of launching kernels (a "
      "transformer's only in bfloat16)");
    v("checkpoint_every", s.checkpoint_every, "Steps between checkpoints");
    v("keep_checkpoints", s.keep_checkpoints, "Newest checkpoints that are kept");
    v("spike_factor", s.spike_factor,
      "A step is skipped if its loss or gradient norm lies so many robust standard deviations above the "
      "median of "
      "the last 128 steps (of their logarithms); 0: only if it is not a number");
    v("max_skipped", s.max_skipped, "So many skipped steps in a row stop the run");
    v("log_every", s.log_every, "Steps between lines of metrics.jsonl");
    v("recompute", s.recompute,
      "dit: keep only each block's input and compute the block again in the backward pass, for long films: "
      "memory of one block instead of all, about a third more time");
    v("train_text", s.train_text, "dit: also train the text encoder");
    v("noise", s.noise, "dit: noise levels, logit_normal or uniform");
    v("noise_shift", s.noise_shift, "dit: shift map of the noise levels; 1 is none");
    v("caption_dropout", s.caption_dropout, "dit: share of films trained without captions, for guidance");
    v("balance_form", s.balance_form, "dit: balancing loss, switch or paper");
    v("balance_weight", s.balance_weight, "dit: weight alpha of the balancing loss, summed over layers");
    v("trained", s.trained,
      "dit: full (all weights), lora (adapters beside frozen weights) or router (the routers alone)");
    v("lora", s.lora, "dit: the adapters of trained: lora");
    v("validation", s.validation, "dit: loss on films that are not trained on");
    v("samples", s.samples, "dit: films made with the weights so far");
    v("memory_gib", s.memory_gib,
      "dit: latents and embeddings kept in memory; beyond it they are read from disk each time");
    v("crop", s.crop, "vae: square crop in pixels, a multiple of 16; 0 is the whole picture");
    v("kl_weight", s.kl_weight, "vae: weight of the Kullback-Leibler term");
    v("l1_weight", s.l1_weight,
      "vae: weight of the absolute error beside the squared error; 0 for the best PSNR");
    v("decoder_only", s.decoder_only,
      "vae: train the decoder alone; the latents, and what was trained on them, stay valid");
    v("vocab_size", s.vocab_size, "tokenizer: most pieces");
    v("corpus", s.corpus, "tokenizer: number of toy captions");
  }
};

// Optimiser steps of all stages.
int64_t total_steps(const TrainConfig& config);

// Throws one Error that names `file`, the key and what it should be, for values that no run can have.
void check_config(const TrainConfig& config, const std::string& file);

// The same for folders and scripts that a run reads and that are not there.
void check_paths(const TrainConfig& config, const std::string& file);

}  // namespace moga
