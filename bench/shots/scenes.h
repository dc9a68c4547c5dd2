// Moving pictures for the shot benchmark: what happens inside one shot, before any editing.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <opencv2/core.hpp>
#include <vector>

#include "data/toy_random.h"

namespace moga::bench {

inline constexpr int kWidth = 320;
inline constexpr int kHeight = 192;

// A view of a scene: where the camera looks, in fractions of the scene's frame (1 = the whole frame wide).
struct View {
  double x = 0.5;  // centre
  double y = 0.5;
  double width = 1;  // of the view, as a share of the scene's width
};

// A place with things moving in it, filmed by a camera that can look anywhere in it. Shots of one scene are
// several views of it.
class Scene {
 public:
  virtual ~Scene() = default;
  // The picture at `seconds` from the scene's beginning: CV_8UC3 RGB, kWidth x kHeight. Pure.
  virtual cv::Mat picture(double seconds, const View& view) const = 0;
};

// A wide painted set (noise of several scales, hard-edged shapes) with textured bodies that move through it.
// `speed`: bodies cross the frame in about 4 / speed seconds.
std::unique_ptr<Scene> painted_scene(uint64_t seed, double speed);
// A toy film's place with its creature moving in it.
std::unique_ptr<Scene> toy_scene(uint64_t seed);
// Shot number `shot` (0 to 2) of a real clip, played to and fro.
std::unique_ptr<Scene> clip_scene(const std::filesystem::path& clip, int shot);

}  // namespace moga::bench
