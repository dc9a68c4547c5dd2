#include "data/toy_raster.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace moga {
namespace {

constexpr int kSubRows = 4;

struct Range {
  float left = 0;
  float right = 0;  // empty if right <= left
};

int floor_int(float value) {
  const int whole = static_cast<int>(value);
  return whole - (value < static_cast<float>(whole) ? 1 : 0);
}

}  // namespace

void ToyCanvas::blend(int row, int column, float coverage, const ToyColour& colour) {
  const float rounded = coverage * 256.0F + 0.5F;  // coverage is never negative
  const auto weight = std::min(256, static_cast<int>(rounded));
  uint8_t* pixel = picture_.ptr<uint8_t>(row) + column * picture_.channels();
  if (picture_.channels() == 1) {
    pixel[0] = static_cast<uint8_t>(pixel[0] + (((255 - pixel[0]) * weight + 128) >> 8));
    return;
  }
  for (size_t c = 0; c < 3; ++c) {
    pixel[c] = static_cast<uint8_t>((pixel[c] * (256 - weight) + colour[c] * weight + 128) >> 8);
  }
}

void ToyCanvas::solid(int row, int first, int last, const ToyColour& colour) {
  if (first >= last) {
    return;
  }
  uint8_t* pixel = picture_.ptr<uint8_t>(row) + first * picture_.channels();
  if (picture_.channels() == 1) {
    std::memset(pixel, 255, static_cast<size_t>(last - first));
    return;
  }
  for (int column = first; column < last; ++column, pixel += 3) {
    pixel[0] = colour[0];
    pixel[1] = colour[1];
    pixel[2] = colour[2];
  }
}

// `span(y)` gives the shape's extent on the horizontal line at y. Pixels inside on all sub-rows are written
// at once; only the two rims are averaged.
template <class Span>
void ToyCanvas::fill(float top, float bottom, const ToyColour& colour, const Span& span) {
  const auto width = static_cast<float>(picture_.cols);
  const int first_row = std::max(0, floor_int(top));
  const int last_row = std::min(picture_.rows, floor_int(bottom) + 1);
  for (int row = first_row; row < last_row; ++row) {
    std::array<Range, kSubRows> spans;
    float outer_left = width;
    float outer_right = 0;
    float inner_left = 0;
    float inner_right = width;
    for (int sub = 0; sub < kSubRows; ++sub) {
      const float y = static_cast<float>(row) + (static_cast<float>(sub) + 0.5F) / kSubRows;
      Range range = y < top || y >= bottom ? Range{} : span(y);
      range.left = std::clamp(range.left, 0.0F, width);
      range.right = std::clamp(range.right, 0.0F, width);
      spans[static_cast<size_t>(sub)] = range;
      if (range.left < range.right) {
        outer_left = std::min(outer_left, range.left);
        outer_right = std::max(outer_right, range.right);
      }
      inner_left = std::max(inner_left, range.left);
      inner_right = std::min(inner_right, range.right);
    }
    if (outer_left >= outer_right) {
      continue;
    }
    const int begin = floor_int(outer_left);
    const int end = std::min(picture_.cols, static_cast<int>(std::ceil(outer_right)));
    const int solid_begin = std::clamp(static_cast<int>(std::ceil(inner_left)), begin, end);
    const int solid_end = std::clamp(floor_int(inner_right), solid_begin, end);
    const auto rim = [&](int from, int to) {
      for (int column = from; column < to; ++column) {
        const auto x = static_cast<float>(column);
        float coverage = 0;
        for (const Range& range : spans) {
          coverage += std::max(0.0F, std::min(range.right, x + 1) - std::max(range.left, x));
        }
        blend(row, column, coverage / kSubRows, colour);
      }
    };
    rim(begin, solid_begin);
    solid(row, solid_begin, solid_end, colour);
    rim(solid_end, end);
  }
}

void ToyCanvas::ellipse(ToyPoint centre, float radius_x, float radius_y, const ToyColour& colour) {
  fill(centre.y - radius_y, centre.y + radius_y, colour, [&](float y) {
    const float t = (y - centre.y) / radius_y;
    const float half = radius_x * std::sqrt(std::max(0.0F, 1 - t * t));
    return Range{centre.x - half, centre.x + half};
  });
}

void ToyCanvas::dome(ToyPoint base_centre, float radius_x, float radius_y, const ToyColour& colour) {
  fill(base_centre.y - radius_y, base_centre.y, colour, [&](float y) {
    const float t = (y - base_centre.y) / radius_y;
    const float half = radius_x * std::sqrt(std::max(0.0F, 1 - t * t));
    return Range{base_centre.x - half, base_centre.x + half};
  });
}

void ToyCanvas::convex(std::initializer_list<ToyPoint> corners, const ToyColour& colour) {
  float top = std::numeric_limits<float>::max();
  float bottom = std::numeric_limits<float>::lowest();
  for (const ToyPoint& corner : corners) {
    top = std::min(top, corner.y);
    bottom = std::max(bottom, corner.y);
  }
  fill(top, bottom, colour, [&](float y) {
    Range range{std::numeric_limits<float>::max(), std::numeric_limits<float>::lowest()};
    const ToyPoint* a = corners.end() - 1;
    for (const ToyPoint* b = corners.begin(); b != corners.end(); a = b, ++b) {
      if ((a->y <= y) != (b->y <= y)) {
        const float x = a->x + (b->x - a->x) * (y - a->y) / (b->y - a->y);
        range.left = std::min(range.left, x);
        range.right = std::max(range.right, x);
      }
    }
    return range;
  });
}

void ToyCanvas::rectangle(ToyPoint upper_left, ToyPoint lower_right, const ToyColour& colour) {
  fill(upper_left.y, lower_right.y, colour, [&](float) { return Range{upper_left.x, lower_right.x}; });
}

void ToyCanvas::fade(float first, float last, const ToyColour& top, const ToyColour& bottom) {
  const int begin = std::clamp(static_cast<int>(std::lround(first)), 0, picture_.rows);
  const int end = std::clamp(static_cast<int>(std::lround(last)), 0, picture_.rows);
  for (int row = begin; row < end; ++row) {
    const float t = (static_cast<float>(row) + 0.5F - first) / std::max(1.0F, last - first);
    ToyColour colour{};
    for (size_t c = 0; c < 3; ++c) {
      const auto from = static_cast<float>(top[c]);
      const float mixed = from + (static_cast<float>(bottom[c]) - from) * std::clamp(t, 0.0F, 1.0F);
      colour[c] = static_cast<uint8_t>(std::lround(mixed));
    }
    solid(row, 0, picture_.cols, colour);
  }
}

}  // namespace moga
