// Rotary position embedding over latent frames, rows and columns, as Wan2.1 has it.
//
// A head of D channels is cut into a time part of D - 4 * (D / 6), then rows and columns of 2 * (D / 6) each
// (128 -> 44, 42, 42). In a part of width n the adjacent pair (2j, 2j + 1) turns by position * 10000^(-2j/n).
#pragma once

#include <torch/torch.h>

#include "attention/film_layout.h"

namespace moga {

struct RopeTable {
  torch::Tensor cos_LP;  // [L, D / 2]
  torch::Tensor sin_LP;  // [L, D / 2]
};

// Computed in float64, stored as `dtype`. D must be even.
RopeTable rope_table(const FilmLayout& layout, int64_t head_dim, torch::ScalarType dtype,
                     torch::Device device);

// x_BLND [B, L, N, D] -> the same shape, rotated.
torch::Tensor apply_rope(const torch::Tensor& x_BLND, const RopeTable& table);

}  // namespace moga
