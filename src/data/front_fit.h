// How well a stretch of film is explained by a front that runs through the picture and leaves the new shot
// behind it: a wipe. Internal to src/data.
#pragma once

#include <cstdint>

#include "data/frame_window.h"

namespace moga {

// How much of the change from frame to frame, on the way from a to b, lies where an even front from one side
// of the picture to the other passes: 1 all of it, 0 no more than by chance; of the four directions the best.
// What moves in the shots themselves, on either side of the front, takes away from it.
double fit_sweep(const FrameWindow& window, int64_t a, int64_t b);

// Largest distance of the new shot's share of the change from an even progress, 0 to 1.
double unevenness(const FrameWindow& window, int64_t a, int64_t b);

}  // namespace moga
