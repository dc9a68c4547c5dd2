#include "training/svg_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace moga {

namespace {

// Colours that stay apart for most colour-blind readers (Okabe and Ito 2008).
constexpr std::array<const char*, 8> kColours = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                                 "#e69f00", "#56b4e9", "#8c6d00", "#555555"};
const char* colour_of(size_t index) {
  return kColours[index % kColours.size()];
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    out += c == '<'   ? "&lt;"
           : c == '>' ? "&gt;"
           : c == '&' ? "&amp;"
           : c == '"' ? "&quot;"
                      : std::string(1, c);
  }
  return out;
}

std::string text_at(double x, double y, const std::string& text, const char* style) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" {}>{}</text>\n", x, y, style, escaped(text));
}

// From data to picture.
struct Scale {
  double x_low, x_high, y_low, y_high;
  Rect area;
  double x(double value) const { return area.x + (value - x_low) / (x_high - x_low) * area.width; }
  double y(double value) const {
    return area.y + area.height - (value - y_low) / (y_high - y_low) * area.height;
  }
};

Scale scale_of(const Chart& chart, const Rect& area) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  Scale scale{kInfinity, -kInfinity, kInfinity, -kInfinity, area};
  for (const Curve& curve : chart.curves) {
    for (const auto& [x, y] : curve.points) {
      if (std::isfinite(y)) {
        scale.x_low = std::min(scale.x_low, x);
        scale.x_high = std::max(scale.x_high, x);
        scale.y_low = std::min(scale.y_low, y);
        scale.y_high = std::max(scale.y_high, y);
      }
    }
  }
  if (chart.stacked) {
    scale.y_low = 0;
    scale.y_high = 1;
  }
  if (scale.x_high <= scale.x_low) {
    scale.x_high = scale.x_low + 1;
  }
  if (scale.y_high <= scale.y_low) {
    const double room = std::max(1e-6, std::abs(scale.y_low) * 0.1);
    scale.y_low -= room;
    scale.y_high += room;
  }
  return scale;
}

std::string axes(const Scale& scale) {
  const Rect& area = scale.area;
  std::string svg = fmt::format(
      "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"none\" stroke=\"#bbb\"/>\n",
      area.x, area.y, area.width, area.height);
  for (const double tick : round_ticks(scale.y_low, scale.y_high, 4)) {
    svg += fmt::format("<line x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"#eee\"/>\n",
                       area.x, area.x + area.width, scale.y(tick), scale.y(tick));
    svg += text_at(area.x - 4, scale.y(tick) + 3, fmt::format("{:.4g}", tick),
                   "class=\"tick\" text-anchor=\"end\"");
  }
  for (const double tick : round_ticks(scale.x_low, scale.x_high, 4)) {
    svg += text_at(scale.x(tick), area.y + area.height + 12, fmt::format("{:.6g}", tick),
                   "class=\"tick\" text-anchor=\"middle\"");
  }
  return svg;
}

std::string lines(const Chart& chart, const Scale& scale) {
  std::string svg;
  for (size_t i = 0; i < chart.curves.size(); ++i) {
    std::string path;
    for (const auto& [x, y] : chart.curves[i].points) {
      if (std::isfinite(y)) {
        path += fmt::format("{:.1f},{:.1f} ", scale.x(x), scale.y(y));
      }
    }
    svg += fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.3\"/>\n", path,
                       colour_of(i));
  }
  return svg;
}

std::string areas(const Chart& chart, const Scale& scale) {
  std::string svg;
  std::vector<double> below;
  for (size_t i = 0; i < chart.curves.size(); ++i) {
    const auto& points = chart.curves[i].points;
    below.resize(points.size());
    std::string top;
    std::string bottom;
    for (size_t p = 0; p < points.size(); ++p) {
      const double height = below[p] + points[p].second;
      top += fmt::format("{:.1f},{:.1f} ", scale.x(points[p].first), scale.y(height));
      bottom.insert(0, fmt::format("{:.1f},{:.1f} ", scale.x(points[p].first), scale.y(below[p])));
      below[p] = height;
    }
    svg += fmt::format("<polygon points=\"{}{}\" fill=\"{}\" stroke=\"white\" stroke-width=\"0.4\"/>\n", top,
                       bottom, colour_of(i));
  }
  return svg;
}

}  // namespace

std::vector<double> round_ticks(double low, double high, int count) {
  const double rough = (high - low) / std::max(1, count);
  const double power = std::pow(10, std::floor(std::log10(rough)));
  const double step = power * (rough / power > 5 ? 10 : rough / power > 2 ? 5 : rough / power > 1 ? 2 : 1);
  std::vector<double> ticks;
  for (double tick = std::ceil(low / step) * step; tick <= high + step * 1e-6; tick += step) {
    ticks.push_back(std::abs(tick) < step * 1e-6 ? 0 : tick);
  }
  return ticks;
}

std::vector<std::pair<double, double>> thin_out(const std::vector<std::pair<double, double>>& points,
                                                size_t most) {
  if (points.size() <= most) {
    return points;
  }
  std::vector<std::pair<double, double>> thin;
  for (size_t i = 0; i < most; ++i) {
    const size_t begin = points.size() * i / most;
    const size_t end = points.size() * (i + 1) / most;
    double x = 0;
    double y = 0;
    for (size_t p = begin; p < end; ++p) {
      x += points[p].first;
      y += points[p].second;
    }
    thin.emplace_back(x / static_cast<double>(end - begin), y / static_cast<double>(end - begin));
  }
  return thin;
}

std::string draw_chart(const Chart& chart, const Rect& place) {
  const bool small = !chart.legend;
  const Rect area = {place.x + (small ? 30.0 : 48.0), place.y + 20, place.width - (small ? 36.0 : 60.0),
                     place.height - 40};
  std::string svg = text_at(area.x, place.y + 14, chart.title, "class=\"title\"");
  const bool empty = std::all_of(chart.curves.begin(), chart.curves.end(),
                                 [](const Curve& curve) { return curve.points.empty(); });
  if (empty) {
    return svg + text_at(area.x + area.width / 2, area.y + area.height / 2, "no data",
                         "class=\"tick\" text-anchor=\"middle\"");
  }
  const Scale scale = scale_of(chart, area);
  svg += axes(scale) + (chart.stacked ? areas(chart, scale) : lines(chart, scale));
  for (size_t i = 0; chart.legend && i < chart.curves.size(); ++i) {
    svg += text_at(area.x + area.width - 6, area.y + 14 + 13 * static_cast<double>(i), chart.curves[i].name,
                   fmt::format("class=\"tick\" text-anchor=\"end\" style=\"fill:{}\"", colour_of(i)).c_str());
  }
  return svg;
}

std::string svg_document(double width, double height, const std::string& heading, const std::string& body) {
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" viewBox=\"0 0 {0:.0f} "
      "{1:.0f}\" "
      "font-family=\"sans-serif\">\n<style>.title{{font-size:12px;font-weight:bold}}.tick{{font-size:10px;"
      "fill:#444}}"
      "</style>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{2}{3}</svg>\n",
      width, height, text_at(16, 22, heading, "font-size=\"15\""), body);
}

}  // namespace moga
