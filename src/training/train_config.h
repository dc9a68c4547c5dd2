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

struct StageConfig {
  std::string name = "stage";
  int64_t steps = 1000;
  int64_t batch = 16;
  double learning_rate = 3e-4;
  int64_t warmup = 100;   // steps of linear warm-up at the stage's start
  double final_rate = 1;  // the rate falls by a half cosine to this share of learning_rate at the stage's end
  int64_t latent_frames = 8;       // the films' first latent frames are used (exact, as the VAE is causal)
  std::optional<DataConfig> data;  // absent: the run's

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("name", s.name, "Name in logs");
    v("steps", s.steps, "Optimiser steps");
    v("batch", s.batch, "Films a step");
    v("learning_rate", s.learning_rate, "AdamW learning rate");
    v("warmup", s.warmup, "Steps of linear warm-up at the stage's start");
    v("final_rate", s.final_rate,
      "Share of the learning rate left at the stage's end (half cosine); 1 is constant");
    v("latent_frames", s.latent_frames, "Latent frames of a film that are used (the first ones)");
    v("data", s.data, "Films of this stage; absent: those of the run");
  }
};

struct TrainConfig {
  TrainKind kind = TrainKind::kDit;
  std::string model = "out/toy/model";  // model folder: read for the frozen parts, gets the result
  std::string base = "toy";             // sizes of a new model folder: a built-in name or a moga.json
  std::string work = "out/toy/work";    // checkpoints, metrics, latent caches
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
  int64_t log_every = 20;

  // dit
  bool recompute = false;
  bool train_text = false;  // also train the text encoder (the toy has no pretrained one)
  NoiseLevels noise = NoiseLevels::kLogitNormal;
  double noise_shift = 1;
  double caption_dropout = 0.1;
  BalanceForm balance_form = BalanceForm::kSwitch;
  double balance_weight = 0.1;
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
    v("work", s.work, "Folder for checkpoints, metrics and latent caches");
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
      "On a GPU: replay each stage's step from a CUDA graph, which spares the time of launching kernels");
    v("checkpoint_every", s.checkpoint_every, "Steps between checkpoints");
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

}  // namespace moga
