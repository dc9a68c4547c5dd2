// Decoding in overlapping spatial tiles, for pictures whose activations do not fit into memory at once.
#pragma once

#include <torch/torch.h>

#include <optional>
#include <vector>

#include "model/wan_vae.h"

namespace moga {

// A square tile and what neighbouring tiles share at least, in latent rows and columns (eight pixels each).
struct VaeTiling {
  int64_t tile = 32;
  int64_t overlap = 8;
};

// Where tiles begin along a side of `length`: as few as cover it, evenly spread. One tile if it covers all.
std::vector<int64_t> tile_starts(int64_t length, const VaeTiling& tiling);

// Decodes as VaeDecodeStream does; with a tiling, tile by tile. Each tile remembers its own past; where tiles
// overlap, their pixels are blended with weights that fall linearly towards a tile's inner edges
// (feathering). What a tile cannot see beyond its edge makes it differ from the whole picture;
// docs/generate.md has measurements.
class VaeTiledDecodeStream {
 public:
  // Throws Error unless 0 < overlap < tile.
  VaeTiledDecodeStream(WanVae vae, std::optional<VaeTiling> tiling);

  // The next latent frames [B, Z, n, h, w] of one size, normalised -> their pixels [B, 3, 4n (first call: 4n
  // - 3), 8h, 8w].
  torch::Tensor next(const torch::Tensor& latent_BZFHW);

 private:
  struct Tile {
    int64_t row = 0;
    int64_t col = 0;
    VaeDecodeStream stream;
    torch::Tensor weight_HW;
  };
  void lay_out(const torch::Tensor& latent_BZFHW);

  WanVae vae_;
  std::optional<VaeTiling> tiling_;
  std::vector<Tile> tiles_;
  int64_t rows_ = 0;  // of a tile
  int64_t cols_ = 0;
};

}  // namespace moga
