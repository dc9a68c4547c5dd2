// High dynamic range to what a usual screen shows. Internal to src/media.
#pragma once

#include <opencv2/core.hpp>

namespace moga {

enum class HdrTransfer { kPq, kHlg };

// CV_16UC3 RGB in BT.2020 primaries, full range, encoded with SMPTE ST 2084 (PQ) or ARIB STD-B67 (HLG, for a
// screen of 1,000 cd/m2) -> CV_8UC3 RGB in BT.709 primaries for a screen with gamma 2.4 (BT.1886).
// Light up to 60 % of diffuse white (203 cd/m2, ITU-R BT.2408) keeps its brightness; above, a curve with the
// same slope at that point leads to white at 1,000 cd/m2. It works on the largest component, so that hues
// stay.
cv::Mat tone_map(const cv::Mat& rgb16, HdrTransfer transfer);

}  // namespace moga
