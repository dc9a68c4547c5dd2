#include "media/tone_map.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "base/error.h"

namespace moga {

namespace {

constexpr double kDiffuseWhite = 203;  // cd/m2
constexpr double kPeak = 1000;         // cd/m2
constexpr size_t kCodes = 65536;
constexpr size_t kSteps = 4096;  // of the table from light to 8-bit codes

// SMPTE ST 2084: code of 0..1 -> cd/m2.
double pq_light(double code) {
  constexpr double kM1 = 2610.0 / 16384;
  constexpr double kM2 = 2523.0 / 32;
  constexpr double kC1 = 3424.0 / 4096;
  constexpr double kC2 = 2413.0 / 128;
  constexpr double kC3 = 2392.0 / 128;
  const double power = std::pow(code, 1 / kM2);
  return 10000 * std::pow(std::max(power - kC1, 0.0) / (kC2 - kC3 * power), 1 / kM1);
}

// ARIB STD-B67: code of 0..1 -> scene light of 0..1.
double hlg_light(double code) {
  constexpr double kA = 0.17883277;
  constexpr double kB = 1 - 4 * kA;
  const double c = 0.5 - kA * std::log(4 * kA);
  return code <= 0.5 ? code * code / 3 : (std::exp((code - c) / kA) + kB) / 12;
}

// Decoded light for every 16-bit code: PQ in units of diffuse white, HLG as scene light.
const std::vector<float>& light_table(HdrTransfer transfer) {
  const auto make = [](auto light, double unit) {
    std::vector<float> table(kCodes);
    for (size_t i = 0; i < kCodes; ++i) {
      table[i] = static_cast<float>(light(static_cast<double>(i) / (kCodes - 1)) / unit);
    }
    return table;
  };
  static const std::vector<float> pq = make(pq_light, kDiffuseWhite);
  static const std::vector<float> hlg = make(hlg_light, 1);
  return transfer == HdrTransfer::kPq ? pq : hlg;
}

// Light of 0..1 -> 8-bit code of a screen with gamma 2.4, on a square-root scale so that darks are fine
// enough.
const std::array<uint8_t, kSteps + 1>& code_table() {
  static const auto table = [] {
    std::array<uint8_t, kSteps + 1> codes{};
    for (size_t i = 0; i <= kSteps; ++i) {
      const double root = static_cast<double>(i) / kSteps;
      codes[i] = static_cast<uint8_t>(std::lround(255 * std::pow(root * root, 1 / 2.4)));
    }
    return codes;
  }();
  return table;
}

// Identity up to the knee, then a rational curve that has slope 1 there and reaches 1 at the peak.
float compress(float light) {
  constexpr auto kKnee = 0.6F;
  constexpr auto kWhite = static_cast<float>(kPeak / kDiffuseWhite);
  if (light <= kKnee) {
    return light;
  }
  constexpr float kSlope = (kWhite - kKnee) / (1 - kKnee);
  const float x = std::min(1.0F, (light - kKnee) / (kWhite - kKnee));
  return kKnee + (1 - kKnee) * x * kSlope / (1 + x * (kSlope - 1));
}

}  // namespace

cv::Mat tone_map(const cv::Mat& rgb16, HdrTransfer transfer) {
  MOGA_CHECK(rgb16.type() == CV_16UC3, "tone mapping: expected a 16-bit RGB picture");
  const std::vector<float>& light = light_table(transfer);
  const auto& codes = code_table();
  cv::Mat out(rgb16.size(), CV_8UC3);
  for (int y = 0; y < rgb16.rows; ++y) {
    const auto* in = rgb16.ptr<cv::Vec3w>(y);
    auto* to = out.ptr<cv::Vec3b>(y);
    for (int x = 0; x < rgb16.cols; ++x) {
      float r = light[in[x][0]];
      float g = light[in[x][1]];
      float b = light[in[x][2]];
      if (transfer == HdrTransfer::kHlg) {
        // The system gamma of 1.2 acts on luminance (ITU-R BT.2100).
        const float luminance = 0.2627F * r + 0.6780F * g + 0.0593F * b;
        const auto scale =
            static_cast<float>(kPeak / kDiffuseWhite) * std::pow(std::max(luminance, 1e-6F), 0.2F);
        r *= scale;
        g *= scale;
        b *= scale;
      }
      // BT.2020 to BT.709 primaries (ITU-R BT.2087); what BT.709 cannot show is cut at its edge.
      std::array<float, 3> linear = {1.6605F * r - 0.5876F * g - 0.0728F * b,
                                     -0.1246F * r + 1.1329F * g - 0.0083F * b,
                                     -0.0182F * r - 0.1006F * g + 1.1187F * b};
      float largest = 1e-9F;
      for (float& value : linear) {
        value = std::max(value, 0.0F);
        largest = std::max(largest, value);
      }
      const float scale = compress(largest) / largest;
      for (int c = 0; c < 3; ++c) {
        const float value = std::min(1.0F, linear[static_cast<size_t>(c)] * scale);
        to[x][c] = codes[static_cast<size_t>(std::lround(std::sqrt(value) * kSteps))];
      }
    }
  }
  return out;
}

}  // namespace moga
