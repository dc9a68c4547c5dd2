// Where the tokens of a film are: a grid of latent frames cut into shots. Plain numbers, no tensors.
#pragma once

#include <cstdint>
#include <vector>

namespace moga {

// Tokens are ordered frame by frame, row by row: token = (f * rows + y) * cols + x, L = F * Y * X.
struct FilmLayout {
  int64_t frames = 0;  // F latent frames
  int64_t rows = 0;    // Y token rows of a frame
  int64_t cols = 0;    // X token columns of a frame
  // First latent frame of each shot, ascending, starting with 0.
  std::vector<int64_t> shot_starts = {0};

  int64_t frame_tokens() const { return rows * cols; }
  int64_t tokens() const { return frames * frame_tokens(); }
  int64_t shots() const { return static_cast<int64_t>(shot_starts.size()); }
  int64_t shot_end(int64_t shot) const { return shot + 1 < shots() ? shot_starts[shot + 1] : frames; }
  // Throws Error unless sizes are positive and the shots cover the frames in order, none empty.
  void check() const;
};

}  // namespace moga
