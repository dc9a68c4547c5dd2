// The detector of transitions of any length: hard cuts, dissolves, fades, wipes. Internal to src/data.
//
// In the space of (small) pictures, a dissolve from A to B is a straight line, passed at even speed between
// two places of rest; a cut is one step; a fade is two lines that meet in a plain colour. Motion, however
// fast, takes a crooked path. So from the distances between the frames of a window follows how well "rest,
// line, rest" explains it, for every beginning and length. A wipe is told by where the picture changes from
// frame to frame (data/front_fit.h).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "data/frame_window.h"
#include "data/shots.h"
#include "data/transition_evidence.h"

namespace moga {

class TransitionDetector {
 public:
  // Frames after a frame that must be known before it is decided.
  static constexpr int64_t kLookahead = 64;
  // Longest dissolve and longest flank of a fade, in mixed frames.
  static constexpr int64_t kLongest = 46;

  // Decides on frame `frame` of `window`, which must hold kLookahead frames after it, unless the film ends.
  // Frames come in order from 0.
  void decide(const FrameWindow& window, int64_t frame);
  // Boundaries that no later frame can change; all of them if the film has ended.
  std::vector<ShotBoundary> take(bool ended);

  // Sees everything that was weighed, for fitting the weights.
  std::function<void(const Evidence&)> observer;

 private:
  struct Plain {
    int64_t first = 0;
    int64_t out_begin = 0;  // first frame of the way to it
    double out_error = 0;
  };

  void follow_plain(const FrameWindow& window, int64_t frame);
  void follow_line(const FrameWindow& window, int64_t frame, bool front);
  void consider(Evidence evidence);
  void join_halves(const FrameWindow& window);

  std::vector<ShotBoundary> open_;  // candidates, not yet resolved
  std::optional<Plain> plain_;
  // Lines and fronts that begin at the last two frames: only one better than its neighbours is looked at
  // closely.
  std::array<std::array<std::optional<LineCandidate>, 2>, 2> recent_;
  int64_t decided_ = 0;
};

}  // namespace moga
