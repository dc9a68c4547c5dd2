#include "evaluation/judge_damage.h"

#include <algorithm>
#include <opencv2/imgproc.hpp>

namespace moga {
namespace {

double between(ToyRandom& random, double low, double high) {
  return low + (high - low) * random.unit();
}

bool chance(ToyRandom& random, double probability) {
  return random.unit() < probability;
}

}  // namespace

cv::Mat damage_frame(const cv::Mat& rgb, const cv::Mat& other, ToyRandom& random) {
  cv::Mat out = rgb.clone();
  if (chance(random, 0.2)) {  // two frames in one, as at smeared cuts; the other stays the weaker
    const double ghost = between(random, 0, 0.25);
    cv::addWeighted(out, 1 - ghost, other, ghost, 0, out);
  }
  if (chance(random, 0.4)) {  // detail lost in a latent grid
    const double factor = between(random, 1.2, 4);
    const cv::Size small(std::max(1, static_cast<int>(out.cols / factor)),
                         std::max(1, static_cast<int>(out.rows / factor)));
    cv::Mat coarse;
    cv::resize(out, coarse, small, 0, 0, cv::INTER_AREA);
    cv::resize(coarse, out, rgb.size(), 0, 0, chance(random, 0.3) ? cv::INTER_NEAREST : cv::INTER_LINEAR);
  }
  if (chance(random, 0.5)) {
    cv::GaussianBlur(out, out, {}, between(random, 0.3, 2));
  }
  if (chance(random, 0.3)) {  // blotches: one offset an 8 x 8 block, the decoder's stride
    cv::Mat blotches((out.rows + 7) / 8, (out.cols + 7) / 8, CV_16SC3);
    cv::RNG(random.next()).fill(blotches, cv::RNG::NORMAL, 0, between(random, 2, 14));
    cv::Mat wide;
    cv::resize(blotches, wide, out.size(), 0, 0, chance(random, 0.5) ? cv::INTER_NEAREST : cv::INTER_LINEAR);
    cv::add(out, wide, out, cv::noArray(), CV_8U);
  }
  // Small enough that no colour of the world becomes another.
  const double contrast = between(random, 0.85, 1.12);
  cv::Scalar drift;
  for (int c = 0; c < 3; ++c) {
    drift[c] = between(random, -14, 14) + 128 * (1 - contrast);
  }
  cv::Mat drifted;
  out.convertTo(drifted, CV_16SC3, contrast);
  cv::add(drifted, drift, drifted);
  if (chance(random, 0.6)) {
    cv::Mat noise(out.size(), CV_16SC3);
    cv::RNG(random.next()).fill(noise, cv::RNG::NORMAL, 0, between(random, 1, 16));
    drifted += noise;
  }
  drifted.convertTo(out, CV_8U);
  return out;
}

}  // namespace moga
