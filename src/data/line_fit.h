// How well a stretch of film is explained by a transition from its first to its last frame. Internal to
// src/data.
#pragma once

#include <cstdint>

#include "data/frame_window.h"

namespace moga {

// In the space of small pictures: rest at frame a, an even straight line, rest at frame b. Errors are means
// of squared distances as shares of the squared distance from a to b, less what noise makes.
struct LineFit {
  double line = 1;     // of the frames between a and b
  double rest = 1;     // of kRest frames before a and after b
  double largest = 1;  // step between neighbours on the way, as a share of the way
};

inline constexpr int64_t kRest = 6;

LineFit fit_line(const FrameWindow& window, int64_t a, int64_t b, double noise, bool rest_before,
                 bool rest_after);

// How much of a mixture's loss of detail the frames between a and b have: 0 none, 1 that of two pictures that
// have nothing to do with each other.
double fit_detail(const FrameWindow& window, int64_t a, int64_t b);

// Share of the picture in which a and b differ: 1 if evenly everywhere, small if in one spot.
double spread_of_change(const FrameWindow& window, int64_t a, int64_t b);

}  // namespace moga
