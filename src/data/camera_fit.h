// What of the change between frames the camera made. Internal to src/data.
#pragma once

#include <cstdint>

#include "data/frame_window.h"

namespace moga {

// Share of the change on the way from a to b, taken in four steps, that no motion of the picture as a whole
// (an affine one: pans, zooms, rolls) explains: 0 all of it does, 1 none. To first order in the motion, which
// must be slow against the soft shapes of the 32 x 18 grid.
double unmoved(const FrameWindow& window, int64_t a, int64_t b);

}  // namespace moga
