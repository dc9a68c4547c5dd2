#include "media/picture.h"

#include <algorithm>
#include <cmath>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <string_view>

#include "base/atomic_file.h"
#include "base/error.h"
#include "media/text_drawing.h"

namespace moga {

namespace fs = std::filesystem;

void write_png(const fs::path& path, const cv::Mat& rgb) {
  MOGA_CHECK(rgb.type() == CV_8UC3 && !rgb.empty(),
             "{}: expected an 8-bit RGB picture, found {}x{} with {} channels", path.string(), rgb.cols,
             rgb.rows, rgb.channels());
  cv::Mat bgr;
  cv::cvtColor(rgb, bgr, cv::COLOR_RGB2BGR);
  std::vector<uint8_t> bytes;
  try {
    MOGA_CHECK(cv::imencode(".png", bgr, bytes), "{}: the picture could not be encoded as PNG",
               path.string());
  } catch (const cv::Exception& error) {
    fail("{}: the picture could not be encoded as PNG: {}", path.string(), error.err);
  }
  write_file_atomic(path, std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

cv::Mat read_image(const fs::path& path) {
  const std::string bytes = read_file(path);
  MOGA_CHECK(!bytes.empty(), "{}: expected a picture, found an empty file", path.string());
  cv::Mat bgr;
  try {
    const cv::Mat view(1, static_cast<int>(bytes.size()), CV_8UC1, const_cast<char*>(bytes.data()));
    bgr = cv::imdecode(view, cv::IMREAD_COLOR);
  } catch (const cv::Exception& error) {
    fail("{}: not a picture that can be read: {}", path.string(), error.err);
  }
  MOGA_CHECK(!bgr.empty(), "{}: not a picture that can be read (PNG, JPEG, WebP and the like are)",
             path.string());
  cv::Mat rgb;
  cv::cvtColor(bgr, rgb, cv::COLOR_BGR2RGB);
  return rgb;
}

cv::Mat fill_size(const cv::Mat& rgb, int64_t width, int64_t height) {
  MOGA_CHECK(!rgb.empty() && width > 0 && height > 0, "cannot scale a picture of {}x{} to {}x{}", rgb.cols,
             rgb.rows, width, height);
  const double scale =
      std::max(static_cast<double>(width) / rgb.cols, static_cast<double>(height) / rgb.rows);
  const auto side = [&](int64_t wanted, int there) {
    return std::clamp(static_cast<int>(std::lround(static_cast<double>(wanted) / scale)), 1, there);
  };
  const cv::Size part(side(width, rgb.cols), side(height, rgb.rows));
  const cv::Point corner((rgb.cols - part.width) / 2, (rgb.rows - part.height) / 2);
  cv::Mat scaled;
  cv::resize(rgb(cv::Rect(corner, part)), scaled, cv::Size(static_cast<int>(width), static_cast<int>(height)),
             0, 0, scale < 1 ? cv::INTER_AREA : cv::INTER_CUBIC);
  return scaled;
}

std::array<uint8_t, 3> group_colour(int64_t group) {
  // Okabe and Ito's seven colours (without black), continued greedily: each next one is farthest in CIELAB
  // from all before it, as seen with normal, deuteranope and protanope eyes (Machado 2009). Smallest distance
  // between any two of the first 20: 25.9 normal, 17.0 deuteranope, 19.5 protanope; of all
  // 32: 18.0, 12.2, 12.5 (2.3 is just visible).
  static constexpr std::array<std::array<uint8_t, 3>, 32> kColours = {{
      {230, 159, 0},   {86, 180, 233},  {0, 158, 115},  {240, 228, 66},  {0, 114, 178},   {213, 94, 0},
      {204, 121, 167}, {0, 0, 255},     {0, 255, 153},  {119, 102, 255}, {153, 17, 34},   {85, 255, 255},
      {136, 17, 85},   {0, 68, 170},    {68, 238, 187}, {187, 170, 85},  {102, 153, 255}, {68, 34, 204},
      {153, 255, 119}, {255, 0, 102},   {187, 0, 0},    {119, 34, 119},  {68, 102, 68},   {85, 204, 221},
      {136, 85, 136},  {102, 204, 136}, {119, 51, 255}, {153, 102, 51},  {34, 136, 119},  {119, 204, 187},
      {119, 102, 221}, {255, 187, 85},
  }};
  constexpr std::array<uint8_t, 3> kNoGroup = {128, 128, 128};
  return group < 0 ? kNoGroup : kColours[static_cast<size_t>(group) % kColours.size()];
}

namespace {

// The sheet's design, in one place. Pixels and RGB.
constexpr int kMargin = 28;
constexpr int kGap = 6;             // between thumbnails
constexpr int kRowGap = 44;         // between rows, with a rule in its middle
constexpr int kMinTextWidth = 520;  // narrow sheets are widened so that captions stay readable
constexpr int kMaxCaptionLines = 6;
const cv::Scalar kBackground(19, 21, 26);
const cv::Scalar kRule(46, 50, 60);
const TextStyle kTitleStyle{17, cv::Scalar(240, 241, 245), 1.15};
const TextStyle kHeadingStyle{10, cv::Scalar(255, 190, 92), 1.0};
const TextStyle kCaptionStyle{10, cv::Scalar(186, 191, 203), 0.85};

int line_height(const TextStyle& style) {
  return style.cap_height * 2;
}

// A row with its pictures scaled and its text broken into lines.
struct LaidRow {
  std::vector<cv::Mat> thumbs;
  std::string heading;
  std::vector<std::string> lines;
  int thumb_height = 0;

  int height() const {
    int total = heading.empty() ? 0 : kHeadingStyle.cap_height + 10;
    total += thumb_height;
    total += lines.empty() ? 0
                           : 16 + static_cast<int>(lines.size() - 1) * line_height(kCaptionStyle) +
                                 kCaptionStyle.cap_height;
    return total;
  }
};

cv::Mat thumbnail(const cv::Mat& frame, int width) {
  const int height =
      std::max(1, static_cast<int>(std::lround(static_cast<double>(frame.rows) * width / frame.cols)));
  cv::Mat thumb;
  // Small films keep their crisp pixels; large ones are averaged.
  cv::resize(frame, thumb, {width, height}, 0, 0, width >= frame.cols ? cv::INTER_NEAREST : cv::INTER_AREA);
  return thumb;
}

LaidRow lay_row(const ContactRow& row, int thumb_width) {
  LaidRow laid;
  for (const cv::Mat& frame : row.frames) {
    MOGA_CHECK(frame.type() == CV_8UC3 && !frame.empty(), "contact sheet: expected 8-bit RGB frames");
    MOGA_CHECK(frame.size() == row.frames.front().size(),
               "contact sheet: the frames of '{}' differ in size: {}x{}, {}x{}", row.heading,
               row.frames.front().cols, row.frames.front().rows, frame.cols, frame.rows);
    laid.thumbs.push_back(thumbnail(frame, thumb_width));
    laid.thumb_height = laid.thumbs.back().rows;
  }
  return laid;
}

void draw_row(cv::Mat& sheet, const LaidRow& row, int y) {
  if (!row.heading.empty()) {
    draw_text(sheet, row.heading, kMargin, y + kHeadingStyle.cap_height, kHeadingStyle);
    y += kHeadingStyle.cap_height + 10;
  }
  int x = kMargin;
  for (const cv::Mat& thumb : row.thumbs) {
    thumb.copyTo(sheet(cv::Rect(x, y, thumb.cols, thumb.rows)));
    x += thumb.cols + kGap;
  }
  y += row.thumb_height + 16 + kCaptionStyle.cap_height;
  for (const std::string& line : row.lines) {
    draw_text(sheet, line, kMargin, y, kCaptionStyle);
    y += line_height(kCaptionStyle);
  }
}

}  // namespace

cv::Mat contact_sheet(const std::string& title, const std::vector<ContactRow>& rows, int thumb_width) {
  constexpr int kMaxThumb = 4096;
  constexpr int kMaxSide = 60'000;  // image formats and viewers end near 65,535
  MOGA_CHECK(thumb_width >= 16 && thumb_width <= kMaxThumb,
             "contact sheet: expected thumbnails of 16 to {} pixels, found {}", kMaxThumb, thumb_width);
  size_t columns = 1;
  for (const ContactRow& row : rows) {
    columns = std::max(columns, row.frames.size());
  }
  MOGA_CHECK(columns * static_cast<size_t>(thumb_width + kGap) < kMaxSide,
             "contact sheet: {} frames of {} pixels side by side are too wide", columns, thumb_width);
  const int content = std::max(kMinTextWidth, static_cast<int>(columns) * (thumb_width + kGap) - kGap);

  const std::vector<std::string> title_lines = wrap_text(to_ascii(title), kTitleStyle, content, 3);
  int height = kMargin + static_cast<int>(title_lines.size()) * line_height(kTitleStyle);
  std::vector<LaidRow> laid;
  for (const ContactRow& row : rows) {
    laid.push_back(lay_row(row, thumb_width));
    const auto heading = wrap_text(to_ascii(row.heading), kHeadingStyle, content, 1);
    laid.back().heading = heading.empty() ? "" : heading.front();
    laid.back().lines = wrap_text(to_ascii(row.caption), kCaptionStyle, content, kMaxCaptionLines);
    height += kRowGap + laid.back().height();
    MOGA_CHECK(height < kMaxSide, "contact sheet: {} rows are too tall for one picture", rows.size());
  }
  height += kMargin;

  cv::Mat sheet(height, content + 2 * kMargin, CV_8UC3, kBackground);
  int y = kMargin;
  for (const std::string& line : title_lines) {
    draw_text(sheet, line, kMargin, y + kTitleStyle.cap_height, kTitleStyle);
    y += line_height(kTitleStyle);
  }
  for (const LaidRow& row : laid) {
    cv::rectangle(sheet, cv::Rect(kMargin, y + kRowGap / 2, content, 1), kRule, cv::FILLED);
    y += kRowGap;
    draw_row(sheet, row, y);
    y += row.height();
  }
  return sheet;
}

cv::Mat draw_groups(const cv::Mat& rgb, const std::vector<int64_t>& group_ids, int64_t rows, int64_t cols,
                    double strength) {
  MOGA_CHECK(rgb.type() == CV_8UC3 && !rgb.empty(), "group picture: expected an 8-bit RGB frame");
  MOGA_CHECK(rows > 0 && cols > 0 && rows <= rgb.rows && cols <= rgb.cols,
             "group picture: {} rows and {} columns of tokens do not fit a frame of {}x{}", rows, cols,
             rgb.cols, rgb.rows);
  MOGA_CHECK(group_ids.size() == static_cast<size_t>(rows * cols),
             "group picture: expected {} group ids ({} rows, {} columns), found {}", rows * cols, rows, cols,
             group_ids.size());
  MOGA_CHECK(strength >= 0 && strength <= 1, "group picture: expected a strength of 0 to 1, found {}",
             strength);

  // The picture loses colour and some light as the groups' colours gain, so that hue means group alone.
  cv::Mat grey;
  cv::cvtColor(rgb, grey, cv::COLOR_RGB2GRAY);
  cv::cvtColor(grey, grey, cv::COLOR_GRAY2RGB);
  const double own_colour = 1 - std::min(1.0, 1.6 * strength);
  cv::Mat out;
  cv::addWeighted(rgb, own_colour, grey, 1 - own_colour, 0, out);

  const auto group_at = [&](int64_t row, int64_t col) {
    return group_ids[static_cast<size_t>(row * cols + col)];
  };
  const auto cell_row = [&](int y) { return static_cast<int64_t>(y) * rows / rgb.rows; };
  const auto cell_col = [&](int x) { return static_cast<int64_t>(x) * cols / rgb.cols; };
  // A border belongs to the cell above or left of it and thickens with the cells: 1 px up to 23, 2 px
  // from 24.
  const int border = std::clamp(static_cast<int>(std::min(rgb.rows / rows, rgb.cols / cols) / 12), 1, 4);
  for (int y = 0; y < rgb.rows; ++y) {
    auto* pixels = out.ptr<cv::Vec3b>(y);
    const int64_t row = cell_row(y);
    const int64_t row_below = cell_row(std::min(y + border, rgb.rows - 1));
    for (int x = 0; x < rgb.cols; ++x) {
      const int64_t col = cell_col(x);
      const int64_t col_right = cell_col(std::min(x + border, rgb.cols - 1));
      const int64_t group = group_at(row, col);
      const bool edge = group_at(row_below, col) != group || group_at(row, col_right) != group;
      const auto colour = group_colour(group);
      for (int c = 0; c < 3; ++c) {
        const double light = (1 - 0.15 * strength) * pixels[x][c];
        const double mixed = (1 - strength) * light + strength * colour[static_cast<size_t>(c)];
        pixels[x][c] = cv::saturate_cast<uint8_t>(edge ? mixed * (1 - 0.75 * strength) : mixed);
      }
    }
  }
  return out;
}

}  // namespace moga
