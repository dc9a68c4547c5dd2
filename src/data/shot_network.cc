#include "data/shot_network.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <opencv2/imgproc.hpp>

#include "base/error.h"

namespace moga {
namespace {

constexpr int64_t kFrames = 100;
constexpr int64_t kMargin = 25;  // frames before and after the believed ones
constexpr int kNetworkWidth = 48;
constexpr int kNetworkHeight = 27;
constexpr float kThreshold = 0.5F;

}  // namespace

ShotNetwork::ShotNetwork(const std::filesystem::path& path) : network_(path) {}

void ShotNetwork::add(const cv::Mat& rgb) {
  cv::Mat small;
  cv::resize(rgb, small, {kNetworkWidth, kNetworkHeight}, 0, 0, cv::INTER_AREA);
  if (count_ == 0) {
    frames_.assign(static_cast<size_t>(kMargin), small);  // the film's first frame stands for those before it
  }
  frames_.push_back(small);
  ++count_;
  if (static_cast<int64_t>(frames_.size()) == kFrames) {
    run();
  }
}

std::vector<float> ShotNetwork::answers(const std::string& output) const {
  const cv::Mat result = network_.run(input_, output);
  MOGA_CHECK(static_cast<int64_t>(result.total()) * result.channels() == kFrames && result.depth() == CV_32F,
             "shot network: expected an answer of {} numbers for {} frames, found {}", kFrames, kFrames,
             result.total());
  std::vector<float> values(static_cast<size_t>(kFrames));
  std::memcpy(values.data(), result.data, values.size() * sizeof(float));
  for (float& value : values) {
    value = 1 / (1 + std::exp(-value));
  }
  return values;
}

void ShotNetwork::run() {
  const auto fill = [&] {
    const std::vector<int> shape = channels_first_
                                       ? std::vector<int>{1, 3, kFrames, kNetworkHeight, kNetworkWidth}
                                       : std::vector<int>{1, kFrames, kNetworkHeight, kNetworkWidth, 3};
    input_.create(shape, CV_32F);
    auto* out = input_.ptr<float>();
    constexpr int kPixels = kNetworkWidth * kNetworkHeight;
    for (int64_t t = 0; t < kFrames; ++t) {
      const uint8_t* pixels = frames_[static_cast<size_t>(t)].data;
      for (int i = 0; i < 3 * kPixels; ++i) {
        const int64_t place =
            channels_first_ ? ((i % 3) * kFrames + t) * kPixels + i / 3 : t * 3 * kPixels + i;
        out[place] = pixels[i];
      }
    }
  };
  fill();
  std::vector<float> last;
  try {
    last = answers(network_.outputs().front());
  } catch (const Error&) {
    // Networks of the other layout refuse the first; only the second refusal is final.
    if (channels_first_ || believed_ > 0) {
      throw;
    }
    channels_first_ = true;
    fill();
    last = answers(network_.outputs().front());
  }
  const std::vector<float> inside = network_.outputs().size() > 1 ? answers(network_.outputs()[1]) : last;
  for (int64_t t = kMargin; t < kFrames - kMargin; ++t) {
    answers_.emplace_back(last[static_cast<size_t>(t)], inside[static_cast<size_t>(t)]);
    ++believed_;
  }
  frames_.erase(frames_.begin(), frames_.begin() + (kFrames - 2 * kMargin));
}

std::vector<ShotBoundary> ShotNetwork::take(const FrameWindow& window, bool ended) {
  while (ended && believed_ < count_) {
    frames_.resize(static_cast<size_t>(kFrames), frames_.back());
    run();
  }
  std::vector<ShotBoundary> found;
  for (; !answers_.empty(); answers_.pop_front()) {
    const auto [last, inside] = answers_.front();
    const int64_t frame = followed_++;
    const bool high = frame + 1 < count_ && (last > kThreshold || inside > kThreshold);
    if (high && run_begin_ < 0) {
      run_begin_ = frame;
      peak_value_ = 0;
    }
    if (high && last > peak_value_) {
      peak_value_ = last;
      peak_ = frame;
    }
    if (high || run_begin_ < 0) {
      continue;
    }
    // The run [run_begin_, frame): its first frame is the last of the old shot.
    if (peak_value_ > kThreshold) {
      ShotBoundary boundary;
      boundary.begin = run_begin_ + 1;
      boundary.end = frame;
      boundary.frame =
          boundary.begin == boundary.end ? boundary.begin : std::clamp(peak_ + 1, boundary.begin, frame);
      boundary.gradual = true;
      boundary.confidence = peak_value_;
      boundary.kind = boundary.begin == boundary.end ? BoundaryKind::kCut : BoundaryKind::kDissolve;
      for (int64_t t = boundary.begin; t < boundary.end; ++t) {
        if (window.has(t) && window.is_plain(t)) {
          boundary.kind = BoundaryKind::kFade;
        }
      }
      found.push_back(boundary);
    }
    run_begin_ = -1;
  }
  return found;
}

}  // namespace moga
