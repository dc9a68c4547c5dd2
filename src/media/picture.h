// Still pictures: PNG, contact sheets, group overlays. All images are CV_8UC3 in RGB order.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <opencv2/core.hpp>
#include <string>
#include <vector>

namespace moga {

// Written atomically.
void write_png(const std::filesystem::path& path, const cv::Mat& rgb);
cv::Mat read_image(const std::filesystem::path& path);
// The middle of the picture in the shape of width x height, scaled to that size.
cv::Mat fill_size(const cv::Mat& rgb, int64_t width, int64_t height);

struct ContactRow {
  std::vector<cv::Mat> frames;  // equal sizes
  std::string heading;          // "Shot 3, 12.5 s - 17.5 s"
  std::string caption;          // wrapped under the row
};
// A row a shot, captions under it, `title` on top; thumbnails are scaled (nearest for enlarging) to
// `thumb_width`.
cv::Mat contact_sheet(const std::string& title, const std::vector<ContactRow>& rows, int thumb_width = 256);

// Distinct, colour-blind-safe colours for up to 32 groups (RGB).
std::array<uint8_t, 3> group_colour(int64_t group);

// The frame with its tokens coloured by group: group_ids has rows x cols entries for this frame's latent
// frame. `strength` 0..1 blends the colour over the (dimmed) picture. Cells have thin borders between
// different groups.
cv::Mat draw_groups(const cv::Mat& rgb, const std::vector<int64_t>& group_ids, int64_t rows, int64_t cols,
                    double strength = 0.55);

}  // namespace moga
