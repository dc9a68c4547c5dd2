// Hard cuts from pixels: where a film jumps from one shot to the next. Made for evaluation of generated
// films; it does not look for fades.
//
// Why it stands beside data/shots.h: that detector, made for films that are shot and edited, takes a bright
// picture of up to 9 frames for a flash if the film then goes on as before. At a toy film's 8 frames a second
// a shot of one second between two of the same place looks so: of the 475 cuts of 60 toy films (seeds
// 1000..1059) it sees 470, this one all, and an evaluation must not blame a model for the difference.
#pragma once

#include <array>
#include <cstdint>
#include <opencv2/core.hpp>
#include <vector>

namespace moga {

// A frame is a cut if it differs from the frame before by at least `least_change` and by at least `ratio`
// times the usual change around it. Changes are mean absolute differences of RGB values (0..255) on a 16 x 10
// grid of means. On 100 toy films (seeds 1000..1099) the 805 cuts change by 17.1 or more (median 48.7), the
// other 23,931 frames by 6.4 or less.
struct CutSettings {
  double least_change = 10;
  double ratio = 3;
  // Frames on either side from which the usual change (the median) is taken.
  int64_t reach = 8;
  // Of several candidates closer than this many frames only the strongest counts: a cut that a decoder smears
  // over neighbouring frames is one cut.
  int64_t least_gap = 3;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("least_change", s.least_change, "Smallest change of a cut, in grey levels of 0 to 255");
    v("ratio", s.ratio, "How many times the median change around it a cut must have");
    v("reach", s.reach, "Frames on either side that give the median");
    v("least_gap", s.least_gap, "Closer candidates than this many frames are one cut");
  }
};

// Takes frames one at a time (memory: 480 bytes and a double a frame), so that films of any length can be
// examined.
class CutDetector {
 public:
  // Throws Error on settings that are negative or not finite.
  explicit CutDetector(const CutSettings& settings = {});

  // CV_8UC3 of any size from 1 x 1; throws Error on other types.
  void add(const cv::Mat& rgb);
  // First frames of new shots so far, ascending; frame 0 is never among them.
  std::vector<int64_t> cuts() const;

 private:
  CutSettings settings_;
  std::array<double, 480> grid_{};  // 16 x 10 x RGB means of the last frame
  int64_t frames_ = 0;
  std::vector<double> changes_;  // changes_[i]: from frame i to frame i + 1
};

std::vector<int64_t> detect_cuts(const std::vector<cv::Mat>& frames, const CutSettings& settings = {});

struct CutScore {
  int64_t expected = 0;
  int64_t found = 0;
  int64_t matched = 0;  // pairs, each cut in one pair at most
  // 1 where there was nothing to find or nothing was found.
  double recall() const {
    return expected == 0 ? 1 : static_cast<double>(matched) / static_cast<double>(expected);
  }
  double precision() const {
    return found == 0 ? 1 : static_cast<double>(matched) / static_cast<double>(found);
  }
};

// Both lists ascending. A found cut matches an expected one at most `tolerance` frames away.
CutScore score_cuts(const std::vector<int64_t>& found, const std::vector<int64_t>& expected,
                    int64_t tolerance);

}  // namespace moga
