// Scores of pictures over time: how good a video or a shot looks, with plain operators of OpenCV.
//
// All are measured on pictures scaled to a width of 480 (kScoreWidth), so that they compare across
// resolutions:
//   sharpness      standard deviation of the 3x3 Laplacian of luma; median over the sampled frames
//   brightness, clipped_low, clipped_high, contrast      from the histogram of luma; means
//   colourfulness  M of Hasler and Suesstrunk, "Measuring colourfulness in natural images" (2003); mean
//   noise          Immerkaer, "Fast noise variance estimation" (1996), on the quarter of the picture with the
//                  least texture, so that detail does not count as noise; median
//   motion         mean length by which blocks move from a sampled frame to the next (normalised
//   correlation); mean still          share of sampled frames whose motion is below 0.5 % of the width a
//   second duplicates share of all frames that differ from the one before by less than 0.1 grey levels
#pragma once

#include <cstdint>
#include <memory>
#include <opencv2/core.hpp>
#include <optional>
#include <vector>

#include "prepare/manifest.h"
#include "prepare/prepare_config.h"

namespace moga {

inline constexpr int64_t kScoreWidth = 480;
// The height that goes with it for a video of this size, even and at least 2.
int64_t score_height(int64_t width, int64_t height);

// Networks that score pictures, read once. Thread-safe: one picture at a time.
class LearnedScorers {
 public:
  // Throws Error naming the file if one cannot be read.
  explicit LearnedScorers(const std::vector<LearnedScoreConfig>& configs);
  ~LearnedScorers();
  // One value a network. Throws Error if the output is no number.
  std::vector<LearnedScore> score(const cv::Mat& rgb);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Takes the frames of a video or shot one at a time. Memory: some numbers a sampled frame.
class ScoreMeter {
 public:
  ScoreMeter(double samples_a_second, LearnedScorers& learned);
  ~ScoreMeter();
  ScoreMeter(ScoreMeter&&) noexcept;
  ScoreMeter& operator=(ScoreMeter&&) noexcept;

  // CV_8UC3 RGB of width kScoreWidth; `seconds` must not fall.
  void add(const cv::Mat& rgb, double seconds);
  int64_t frames() const;
  Scores scores() const;
  // Thousandths of the sampled pixels in each of 72 colours (8 hues x 3 saturations x 3 values).
  std::vector<int64_t> colours() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Where the picture is inside black borders. A row or column is border if it is black (all but 2 % of its
// pixels up to grey level 24) in all but 2 % of the frames that are not black as a whole. Takes frames of one
// size.
class BorderMeter {
 public:
  void add(const cv::Mat& rgb);
  // In pixels of a video of this size, shrunk by the uncertainty of the smaller picture; the whole frame
  // where there are no borders, or nothing but black.
  PixelBox box(int64_t width, int64_t height) const;

 private:
  int64_t frames_ = 0;
  std::vector<int64_t> bright_rows_;
  std::vector<int64_t> bright_columns_;
};

// How much two histograms of colours() agree, 0 to 1.
double colour_agreement(const std::vector<int64_t>& a, const std::vector<int64_t>& b);

}  // namespace moga
