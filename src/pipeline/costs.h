// What a model's parts cost: parameters, and floating-point operations with a multiply-add counted as two.
// Only matrix products and convolutions are counted; norms, softmax and activations are a few per cent more.
#pragma once

#include <cstdint>

#include "model/wan_config.h"

namespace moga {

int64_t dit_parameters(const DitConfig& dit);          // routers included where the attention has them
int64_t router_parameters(const DitConfig& dit);       // 0 for full and static attention
int64_t dit_float32_parameters(const DitConfig& dit);  // those that stay float32 (model/weights.h)
int64_t vae_parameters(const VaeConfig& vae);          // encoder and decoder
int64_t text_parameters(const TextEncoderConfig& text);

// One forward pass of the transformer over `tokens` visual tokens without its visual self-attention's scores
// and without routers: all linear layers, cross-attention (every token sees `captions_seen` captions of
// text_len rows, keys and values are made for `captions` of them), patch, time, text and head layers.
double dit_dense_flops(const DitConfig& dit, double tokens, double captions, double captions_seen);

// Scores and weighted sum of all layers for a number of (query, key) pairs a layer: 4 C a pair.
double attention_flops(const DitConfig& dit, double pairs);

double router_flops(const DitConfig& dit, double tokens);

// Decoding `latent_frames` of width x height pixels.
double vae_decode_flops(const VaeConfig& vae, int64_t latent_frames, int64_t width, int64_t height);

}  // namespace moga
