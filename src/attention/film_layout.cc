#include "attention/film_layout.h"

#include "base/error.h"

namespace moga {

void FilmLayout::check() const {
  MOGA_CHECK(frames > 0 && rows > 0 && cols > 0,
             "film layout: expected positive frames, rows and columns, found {} x {} x {}", frames, rows,
             cols);
  MOGA_CHECK(!shot_starts.empty() && shot_starts.front() == 0,
             "film layout: the first shot must start at latent frame 0, found {}",
             shot_starts.empty() ? "no shot" : std::to_string(shot_starts.front()));
  for (int64_t shot = 0; shot < shots(); ++shot) {
    MOGA_CHECK(shot_starts[shot] < shot_end(shot),
               "film layout: shot {} is empty or out of order: it starts at latent frame {} and ends at {}",
               shot, shot_starts[shot], shot_end(shot));
  }
}

}  // namespace moga
