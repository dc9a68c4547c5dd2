// Shot boundaries from pixels: hard cuts, dissolves, fades and wipes, with two detectors whose agreement is
// kept.
//
// As in MoGA's data pipeline (paper, section on data): one detector looks for sudden changes of content, the
// other for transitions of any length. A boundary that both see is clean; one that only the second sees is
// overlapped by a transition, and frames around it belong to two shots at once.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <opencv2/core.hpp>
#include <string>
#include <utility>
#include <vector>

#include "base/config.h"

namespace moga {

class VideoReader;

enum class BoundaryKind { kCut, kDissolve, kFade, kWipe };
template <>
struct EnumNames<BoundaryKind> {
  static constexpr std::array<std::pair<BoundaryKind, const char*>, 4> kNames = {
      {{BoundaryKind::kCut, "cut"},
       {BoundaryKind::kDissolve, "dissolve"},
       {BoundaryKind::kFade, "fade"},
       {BoundaryKind::kWipe, "wipe"}}};
};

struct ShotBoundary {
  // First frame of the new shot, 0-based; in a transition the first in which it has the larger share. Frame 0
  // is never a boundary.
  int64_t frame = 0;
  BoundaryKind kind = BoundaryKind::kCut;
  // Frames [begin, end) show both shots or neither (black between fades). Empty, both equal to `frame`, in a
  // clean cut. begin <= frame <= end.
  int64_t begin = 0;
  int64_t end = 0;
  double confidence = 0;  // 0 to 1; 0.5 is the weakest that is reported
  bool content = false;   // the detector of sudden changes saw it
  bool gradual = false;   // the detector of transitions saw it

  bool overlapped() const { return begin < end || !content; }
};

struct ShotSettings {
  // A network that replaces the detector of transitions (data/shot_network.h); empty: the built-in one.
  std::string network;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("network", s.network,
      "ONNX file of a learned shot detector (TransNetV2, AutoShot), used in place of the built-in detector "
      "of "
      "transitions");
  }
};

// Frames are looked at in this size; larger ones are scaled down by add(). Decoding straight to it is faster.
inline constexpr int kShotFrameWidth = 128;
inline constexpr int kShotFrameHeight = 72;

// Takes the frames of a film one at a time. Memory does not grow with the film's length, but for the
// boundaries that nobody has taken; they come out about 64 frames late.
class ShotDetector {
 public:
  // Throws Error if the network cannot be read.
  explicit ShotDetector(const ShotSettings& settings = {});
  ~ShotDetector();
  ShotDetector(ShotDetector&&) noexcept;
  ShotDetector& operator=(ShotDetector&&) noexcept;

  // CV_8UC3 in RGB order, any size; throws Error on other types.
  void add(const cv::Mat& rgb);
  // Boundaries decided since the last call, ascending.
  std::vector<ShotBoundary> take();
  // After the last frame: those not yet taken.
  std::vector<ShotBoundary> finish();

  int64_t frames() const;  // added so far

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// All boundaries of a film. `each_frame` (may be empty) is called after each frame.
std::vector<ShotBoundary> detect_shots(VideoReader& video, const ShotSettings& settings = {},
                                       const std::function<void()>& each_frame = {});
std::vector<ShotBoundary> detect_shots(const std::vector<cv::Mat>& frames, const ShotSettings& settings = {});

// {"frame": 53, "seconds": 2.12, "kind": "cut", "begin": 53, "end": 53, "overlapped": false, "confidence":
// 0.97, "detectors": ["content", "gradual"]}; without "seconds" where `fps` is 0.
nlohmann::ordered_json boundary_to_json(const ShotBoundary& boundary, double fps);

}  // namespace moga
