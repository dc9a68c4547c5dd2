#include "model/vae_tiling.h"

#include "base/error.h"

namespace moga {

namespace {

constexpr int64_t kScale = 8;  // pixels a latent row or column

// Weights of a tile's pixels along one side: 1 inside, falling to nearly 0 over `feather` pixels at edges
// that are not the picture's own.
torch::Tensor ramp(int64_t start, int64_t size, int64_t length, int64_t feather) {
  const torch::Tensor place = torch::arange(size) + 0.5;
  torch::Tensor weight = torch::ones({size});
  if (start > 0) {
    weight = torch::minimum(weight, place / static_cast<double>(feather));
  }
  if (start + size < length) {
    weight = torch::minimum(weight, (static_cast<double>(size) - place) / static_cast<double>(feather));
  }
  return weight;
}

}  // namespace

std::vector<int64_t> tile_starts(int64_t length, const VaeTiling& tiling) {
  if (length <= tiling.tile) {
    return {0};
  }
  const int64_t stride = tiling.tile - tiling.overlap;
  const int64_t steps = (length - tiling.tile + stride - 1) / stride;
  std::vector<int64_t> starts;
  for (int64_t i = 0; i <= steps; ++i) {
    starts.push_back((length - tiling.tile) * i / steps);
  }
  return starts;
}

VaeTiledDecodeStream::VaeTiledDecodeStream(WanVae vae, std::optional<VaeTiling> tiling)
    : vae_(std::move(vae)), tiling_(tiling) {
  MOGA_CHECK(!tiling || (tiling->overlap > 0 && tiling->overlap < tiling->tile),
             "VAE tiles of {} latent rows cannot overlap by {}", tiling->tile, tiling->overlap);
}

void VaeTiledDecodeStream::lay_out(const torch::Tensor& latent) {
  const int64_t rows = latent.size(3);
  const int64_t cols = latent.size(4);
  const VaeTiling tiling = tiling_.value_or(VaeTiling{std::max(rows, cols), 1});
  rows_ = std::min(rows, tiling.tile);
  cols_ = std::min(cols, tiling.tile);
  const int64_t feather = tiling.overlap * kScale;
  torch::Tensor sum_HW = torch::zeros({rows * kScale, cols * kScale});
  const auto place = [&](const Tile& tile) {
    return sum_HW.narrow(0, tile.row * kScale, rows_ * kScale).narrow(1, tile.col * kScale, cols_ * kScale);
  };
  for (const int64_t row : tile_starts(rows, tiling)) {
    for (const int64_t col : tile_starts(cols, tiling)) {
      Tile tile{row, col, VaeDecodeStream(vae_),
                torch::outer(ramp(row * kScale, rows_ * kScale, rows * kScale, feather),
                             ramp(col * kScale, cols_ * kScale, cols * kScale, feather))};
      place(tile).add_(tile.weight_HW);
      tiles_.push_back(std::move(tile));
    }
  }
  // Shares instead of weights: they add up to one wherever any number of tiles meet.
  for (Tile& tile : tiles_) {
    tile.weight_HW = (tile.weight_HW / place(tile)).to(latent.device());
  }
}

torch::Tensor VaeTiledDecodeStream::next(const torch::Tensor& latent) {
  if (tiles_.empty()) {
    lay_out(latent);
  }
  if (tiles_.size() == 1) {
    return tiles_[0].stream.next(latent);
  }
  torch::Tensor picture;
  for (Tile& tile : tiles_) {
    const torch::Tensor pixels =
        tile.stream.next(latent.narrow(3, tile.row, rows_).narrow(4, tile.col, cols_));
    if (!picture.defined()) {
      picture = torch::zeros(
          {pixels.size(0), pixels.size(1), pixels.size(2), latent.size(3) * kScale, latent.size(4) * kScale},
          pixels.options());
    }
    picture.narrow(3, tile.row * kScale, rows_ * kScale)
        .narrow(4, tile.col * kScale, cols_ * kScale)
        .add_(pixels * tile.weight_HW);
  }
  return picture;
}

}  // namespace moga
