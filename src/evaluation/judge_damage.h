// Damage for training the judge: true frames made to look like decoded or generated ones.
#pragma once

#include <opencv2/core.hpp>

#include "data/toy_random.h"

namespace moga {

// Blur, coarse blocks, a ghost of `other` (same size and type), colour drift and noise, each at random
// strength and none of them always. CV_8UC3 in and out; deterministic for a state of `random` on one OpenCV
// version.
cv::Mat damage_frame(const cv::Mat& rgb, const cv::Mat& other, ToyRandom& random);

}  // namespace moga
