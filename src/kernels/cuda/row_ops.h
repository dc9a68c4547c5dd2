// What stands between the matrix products of a transformer block on a GPU, each in one pass over memory.
// CUDA, plain pointers, no libtorch; the rules of token_kernels.h hold here too (queued on `stream`, the same
// bits in every run, nullptr or CUDA's words).
//
// Rows of C channels lie one after another, C a multiple of kRowChannels and at most kMostRowChannels;
// pointers are multiples of kRowAlignment bytes. Arithmetic is float32, rounded once.
#pragma once

#include "kernels/cuda/token_kernels.h"

namespace moga::cuda {

constexpr int64_t kRowChannels = 8;
constexpr int64_t kMostRowChannels = 8192;

// to = (from - mean) / sqrt(variance + eps) * (plus + scale) + shift: a layer norm, modulated (plus 1) or
// with parameters (plus 0).
struct NormModulate {
  Element from_element = Element::kFloat32;
  Element to_element = Element::kFloat32;
  const void* from = nullptr;    // [rows, channels]
  const float* scale = nullptr;  // [samples, channels]
  const float* shift = nullptr;
  int64_t modulation_stride = 0;  // elements from sample to sample, of both; 0: all have one row
  void* to = nullptr;             // [rows, channels]
  int64_t rows = 0;
  int64_t rows_per_sample = 1;
  int64_t channels = 0;
  float eps = 0;
  float plus = 0;
};
const char* norm_modulate(const NormModulate& job, Stream stream);

// to = from / sqrt(mean(from^2) + eps) * weight, then, with a table, in each head the pair (2p, 2p + 1)
// turned by the angle of (token, p), token = row % tokens.
struct RmsNormRope {
  Element from_element = Element::kFloat32;
  Element to_element = Element::kFloat32;
  const void* from = nullptr;     // [rows, channels]
  const float* weight = nullptr;  // [channels]
  const float* cos = nullptr;     // [tokens, head_size / 2] or nullptr
  const float* sin = nullptr;
  void* to = nullptr;  // [rows, channels]
  int64_t rows = 0;
  int64_t tokens = 1;  // a sample
  int64_t channels = 0;
  int64_t head_size = 0;  // a multiple of kRowChannels
  float eps = 0;
};
const char* rms_norm_rope(const RmsNormRope& job, Stream stream);

}  // namespace moga::cuda
