#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "data/text_regions.h"

namespace moga {
namespace {

// Lower neighbours of sizes and upper ones of corners, so that the crop stays inside.
int even_below(int value) {
  return value - (value & 1);
}
int even_above(int value) {
  return value + (value & 1);
}

// The place of an even-sized stretch in [first, last), as near to the middle of the picture as it can be.
int place_stretch(int first, int last, int length, double middle) {
  const int wanted = even_below(static_cast<int>(std::lround(middle - 0.5 * length)));
  return std::clamp(wanted, even_above(first), std::max(even_above(first), even_below(last - length)));
}

// The largest even rectangle of the aspect ratio inside `free`, near the middle of `picture`; empty if none.
cv::Rect fit_aspect(const cv::Rect& free, double aspect, const cv::Rect& picture) {
  const int room_x = even_below(free.br().x) - even_above(free.x);
  const int room_y = even_below(free.br().y) - even_above(free.y);
  if (room_x < 2 || room_y < 2) {
    return {};
  }
  const int width = even_below(std::min(room_x, static_cast<int>(room_y * aspect + 1e-9)));
  const int height = std::min(room_y, 2 * static_cast<int>(std::lround(width / aspect / 2)));
  if (width < 2 || height < 2) {
    return {};
  }
  return {place_stretch(free.x, free.br().x, width, picture.x + 0.5 * picture.width),
          place_stretch(free.y, free.br().y, height, picture.y + 0.5 * picture.height), width, height};
}

double off_centre(const cv::Rect& crop, const cv::Rect& picture) {
  return std::hypot(crop.x + 0.5 * crop.width - picture.x - 0.5 * picture.width,
                    crop.y + 0.5 * crop.height - picture.y - 0.5 * picture.height);
}

}  // namespace

std::optional<cv::Rect> largest_crop(int width, int height, const cv::Rect& picture,
                                     const std::vector<cv::Rect>& boxes, double aspect, double least_share) {
  MOGA_CHECK(width >= 2 && height >= 2, "crop: expected a frame of at least 2x2 pixels, found {}x{}", width,
             height);
  const cv::Rect frame(0, 0, width, height);
  const cv::Rect inside = picture.empty() ? frame : picture;
  MOGA_CHECK((inside & frame) == inside, "crop: the picture {}x{}+{}+{} is not inside the frame of {}x{}",
             inside.width, inside.height, inside.x, inside.y, width, height);
  MOGA_CHECK(std::isfinite(aspect) && aspect >= 0, "crop: expected an aspect ratio of 0 or more, found {}",
             aspect);
  const double ratio = aspect > 0 ? aspect : static_cast<double>(inside.width) / inside.height;

  std::vector<cv::Rect> blocks;
  for (const cv::Rect& box : boxes) {
    if (const cv::Rect block = box & inside; !block.empty()) {
      blocks.push_back(block);
    }
  }
  // The largest free rectangle of any shape has each side at the picture's or at a box's; the crop fits in
  // one. From top to bottom stripes; in each, the gaps between the boxes that reach into it.
  std::vector<int> tops = {inside.y};
  std::vector<int> bottoms = {inside.br().y};
  for (const cv::Rect& block : blocks) {
    tops.push_back(block.br().y);
    bottoms.push_back(block.y);
  }
  cv::Rect best;
  for (const int top : tops) {
    for (const int bottom : bottoms) {
      std::vector<std::pair<int, int>> taken;
      for (const cv::Rect& block : blocks) {
        if (block.y < bottom && block.br().y > top) {
          taken.emplace_back(block.x, block.br().x);
        }
      }
      taken.emplace_back(inside.br().x, inside.br().x);
      std::sort(taken.begin(), taken.end());
      int left = inside.x;
      for (const auto& [from, to] : taken) {
        if (top < bottom && left < from) {
          const cv::Rect crop = fit_aspect({left, top, from - left, bottom - top}, ratio, inside);
          if (crop.area() > best.area() || (crop.area() == best.area() && !crop.empty() &&
                                            off_centre(crop, inside) < off_centre(best, inside))) {
            best = crop;
          }
        }
        left = std::max(left, to);
      }
    }
  }
  if (best.empty() || best.area() < least_share * inside.area()) {
    return std::nullopt;
  }
  return best;
}

}  // namespace moga
