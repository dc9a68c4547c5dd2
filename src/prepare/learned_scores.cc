#include <cmath>
#include <mutex>
#include <opencv2/imgproc.hpp>

#include "base/error.h"
#include "data/onnx_network.h"
#include "prepare/scores.h"

namespace moga {

struct LearnedScorers::Impl {
  struct Network {
    LearnedScoreConfig config;
    OnnxNetwork net;
  };
  std::mutex mutex;  // a network keeps its activations
  std::vector<Network> networks;
};

LearnedScorers::LearnedScorers(const std::vector<LearnedScoreConfig>& configs)
    : impl_(std::make_unique<Impl>()) {
  for (const LearnedScoreConfig& config : configs) {
    impl_->networks.push_back({config, OnnxNetwork(config.file)});
  }
}

LearnedScorers::~LearnedScorers() = default;

namespace {

// [1, 3, height, width] float32: (colour / 255 - mean) / std.
cv::Mat network_input(const cv::Mat& rgb, const LearnedScoreConfig& config) {
  cv::Mat scaled;
  const cv::Size size(static_cast<int>(config.width), static_cast<int>(config.height));
  cv::resize(rgb, scaled, size, 0, 0, cv::INTER_AREA);
  std::array<cv::Mat, 3> planes;
  cv::split(scaled, planes.data());
  cv::Mat input(std::vector<int>{1, 3, size.height, size.width}, CV_32F);
  for (size_t c = 0; c < 3; ++c) {
    cv::Mat plane(size, CV_32F, input.ptr<float>(0, static_cast<int>(c)));
    planes[c].convertTo(plane, CV_32F, 1 / (255 * config.std[c]), -config.mean[c] / config.std[c]);
  }
  return input;
}

}  // namespace

std::vector<LearnedScore> LearnedScorers::score(const cv::Mat& rgb) {
  const std::lock_guard lock(impl_->mutex);
  std::vector<LearnedScore> scores;
  for (const Impl::Network& network : impl_->networks) {
    const LearnedScoreConfig& config = network.config;
    const cv::Mat output = network.net.run(network_input(rgb, config));
    MOGA_CHECK(output.total() >= 1 && output.depth() == CV_32F, "score.learned[{}]: {} gave no numbers",
               config.name, config.file);
    const auto* values = output.ptr<float>();
    double value = values[0];
    if (config.expectation) {
      double weight = 0;
      value = 0;
      for (size_t i = 0; i < output.total(); ++i) {
        weight += values[i];
        value += static_cast<double>(i + 1) * values[i];
      }
      value /= weight;
    }
    MOGA_CHECK(std::isfinite(value), "score.learned[{}]: {} gave {}", config.name, config.file, value);
    scores.push_back({config.name, value});
  }
  return scores;
}

}  // namespace moga
