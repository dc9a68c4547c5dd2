#include "data/shots.h"

#include <algorithm>
#include <opencv2/imgproc.hpp>
#include <optional>

#include "base/error.h"
#include "data/content_cuts.h"
#include "data/frame_window.h"
#include "data/shot_network.h"
#include "data/transitions.h"
#include "media/video.h"

namespace moga {

struct ShotDetector::Impl {
  explicit Impl(const ShotSettings& settings) {
    if (!settings.network.empty()) {
      network.emplace(settings.network);
    }
  }

  void add(const cv::Mat& rgb) {
    MOGA_CHECK(!rgb.empty() && rgb.type() == CV_8UC3,
               "shot detector: expected 8-bit RGB, found {} channels of depth {}", rgb.channels(),
               rgb.depth());
    cv::Mat small = rgb;
    if (rgb.size() != cv::Size(kShotFrameWidth, kShotFrameHeight)) {
      cv::resize(rgb, small, {kShotFrameWidth, kShotFrameHeight}, 0, 0, cv::INTER_AREA);
    }
    window.add(small);
    content.add(small);
    ++frames;
    if (network) {
      network->add(small);
      collect(network->take(window, false));
    } else if (decided + TransitionDetector::kLookahead < frames) {
      decide();
    }
  }

  void decide() {
    transitions.decide(window, decided);
    ++decided;
    collect(transitions.take(false));
  }

  void collect(std::vector<ShotBoundary> found) {
    for (ShotBoundary& boundary : found) {
      for (int64_t t = boundary.frame - 1; boundary.kind == BoundaryKind::kCut && t <= boundary.frame + 1;
           ++t) {
        boundary.content = boundary.content || (t < frames && content.is_cut(t));
      }
      ready.push_back(boundary);
    }
  }

  void end() {
    if (network) {
      collect(network->take(window, true));
      return;
    }
    while (decided < frames) {
      decide();
    }
    collect(transitions.take(true));
  }

  FrameWindow window;
  ContentCuts content;
  TransitionDetector transitions;
  std::optional<ShotNetwork> network;  // in place of `transitions`
  std::vector<ShotBoundary> ready;
  int64_t frames = 0;
  int64_t decided = 0;
};

ShotDetector::ShotDetector(const ShotSettings& settings) : impl_(std::make_unique<Impl>(settings)) {}
ShotDetector::~ShotDetector() = default;
ShotDetector::ShotDetector(ShotDetector&&) noexcept = default;
ShotDetector& ShotDetector::operator=(ShotDetector&&) noexcept = default;

void ShotDetector::add(const cv::Mat& rgb) {
  impl_->add(rgb);
}
std::vector<ShotBoundary> ShotDetector::take() {
  return std::exchange(impl_->ready, {});
}
std::vector<ShotBoundary> ShotDetector::finish() {
  impl_->end();
  return take();
}
int64_t ShotDetector::frames() const {
  return impl_->frames;
}

std::vector<ShotBoundary> detect_shots(VideoReader& video, const ShotSettings& settings,
                                       const std::function<void()>& each_frame) {
  ShotDetector detector(settings);
  while (const auto frame = video.next()) {
    detector.add(*frame);
    if (each_frame) {
      each_frame();
    }
  }
  return detector.finish();
}

std::vector<ShotBoundary> detect_shots(const std::vector<cv::Mat>& frames, const ShotSettings& settings) {
  ShotDetector detector(settings);
  for (const cv::Mat& frame : frames) {
    detector.add(frame);
  }
  return detector.finish();
}

nlohmann::ordered_json boundary_to_json(const ShotBoundary& boundary, double fps) {
  nlohmann::ordered_json json = {{"frame", boundary.frame}};
  if (fps > 0) {
    json["seconds"] = static_cast<double>(boundary.frame) / fps;
  }
  json["kind"] = enum_name(boundary.kind);
  json["begin"] = boundary.begin;
  json["end"] = boundary.end;
  json["overlapped"] = boundary.overlapped();
  json["confidence"] = boundary.confidence;
  auto detectors = nlohmann::ordered_json::array();
  if (boundary.content) {
    detectors.push_back("content");
  }
  if (boundary.gradual) {
    detectors.push_back("gradual");
  }
  json["detectors"] = detectors;
  return json;
}

}  // namespace moga
