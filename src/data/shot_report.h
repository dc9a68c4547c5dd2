// A film's shots for people, programs and editors.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "data/shots.h"

namespace moga {

struct ShotSpan {
  int64_t first = 0;  // frames [first, last) in the film: from boundary to boundary
  int64_t last = 0;
  // Frames [clean_first, clean_last) show this shot alone, without its transitions.
  int64_t clean_first = 0;
  int64_t clean_last = 0;
};

// The shots between the boundaries of a film of `frames` frames, one more than boundaries.
std::vector<ShotSpan> shots_between(const std::vector<ShotBoundary>& boundaries, int64_t frames);

// Hours, minutes, seconds and frames, counted at the rate's nearest whole number (no frames are dropped).
std::string timecode(int64_t frame, double fps);

// A line a boundary, with a heading and a closing line that counts shots.
std::string shots_table(const std::vector<ShotBoundary>& boundaries, int64_t frames, double fps);

// A CMX 3600 edit list that cuts the film `name` into its shots. Transitions are part of the picture and so
// cannot be made again by an editor: their shots meet in a cut at the boundary's frame, and a comment tells
// kind and extent.
std::string shots_edl(const std::vector<ShotBoundary>& boundaries, int64_t frames, double fps,
                      const std::string& name);

// A contact sheet: for each shot (300 at most) its first, middle and last frame. Decodes the film once more.
void write_shot_sheet(const std::filesystem::path& picture, const std::filesystem::path& video,
                      const std::vector<ShotBoundary>& boundaries, int64_t frames);

}  // namespace moga
