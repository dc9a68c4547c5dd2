// Line charts and stacked areas as SVG text: sharp at any size, and their words can be searched.
#pragma once

#include <array>
#include <string>
#include <utility>
#include <vector>

namespace moga {

struct Curve {
  std::string name;
  std::vector<std::pair<double, double>> points;  // x rising; points that are not finite are left out
};

struct Rect {
  double x, y, width, height;
};

// One chart: frame, title, round ticks, the curves and their names. With `stacked` the curves are shares that
// lie on top of each other and fill the chart from 0 to 1 (all have the same x). A chart without points says
// so.
struct Chart {
  std::string title;
  std::vector<Curve> curves;
  bool stacked = false;
  bool legend = true;
};
std::string draw_chart(const Chart& chart, const Rect& place);

// A whole picture of `body` with a heading.
std::string svg_document(double width, double height, const std::string& heading, const std::string& body);

// At most `most` points: means over runs of neighbours.
std::vector<std::pair<double, double>> thin_out(const std::vector<std::pair<double, double>>& points,
                                                size_t most);

// Round values that cover [low, high] in about `count` steps.
std::vector<double> round_ticks(double low, double high, int count);

}  // namespace moga
