// Backgrounds of the toy world.
#pragma once

#include "data/toy_raster.h"

namespace moga {

// Where world units land on the picture. World x is 0 in the middle of the set and grows to the right; world
// y is 0 where the creature stands and grows downwards; the horizon is at kToyHorizon.
struct ToyCamera {
  float pixels_per_unit = 1;
  float shift = 0;     // world x at the middle of the picture
  float middle_x = 0;  // pixels
  float ground_y = 0;  // pixels

  ToyPoint at(float x, float y) const {
    return {middle_x + (x - shift) * pixels_per_unit, ground_y + y * pixels_per_unit};
  }
};

inline constexpr float kToyHorizon = -20;

// Paints the whole picture with place number `place` of toy_places(). Colours are muted and shapes large:
// creatures, which are saturated, white or black, stand out anywhere, and a small VAE can reproduce it.
void draw_toy_place(int place, const ToyCamera& camera, cv::Mat& rgb);

}  // namespace moga
