#include "training/plot.h"

#include <map>

#include "base/atomic_file.h"
#include "base/error.h"
#include "training/metrics.h"
#include "training/svg_chart.h"

namespace moga {

namespace {

constexpr size_t kMostPoints = 400;  // a curve; more than the pixels there are

using Lines = std::vector<nlohmann::ordered_json>;

Curve curve_of(const Lines& lines, const std::string& key, const std::string& name) {
  Curve curve{name, {}};
  for (const auto& line : lines) {
    if (const auto value = line.find(key); value != line.end() && value->is_number()) {
      curve.points.emplace_back(line["step"].get<double>(), value->get<double>());
    }
  }
  curve.points = thin_out(curve.points, kMostPoints);
  return curve;
}

void add_curve(Chart& chart, Curve curve) {
  if (!curve.points.empty()) {
    chart.curves.push_back(std::move(curve));
  }
}

Chart one_curve(const Lines& lines, const std::string& key, const std::string& title) {
  Chart chart{title, {}};
  add_curve(chart, curve_of(lines, key, key));
  return chart;
}

Chart validation_chart(const Lines& lines) {
  std::map<std::string, Curve> levels;
  for (const auto& line : lines) {
    if (line.contains("validation")) {
      for (const auto& [level, loss] : line["validation"].items()) {
        if (loss.is_number()) {
          levels[level].points.emplace_back(line["step"].get<double>(), loss.get<double>());
        }
      }
    }
  }
  Chart chart{"validation: flow loss at noise level", {}};
  for (auto& [level, curve] : levels) {
    chart.curves.push_back({level, thin_out(curve.points, kMostPoints)});
  }
  return chart;
}

// One chart a layer: the share of tokens that each group has.
std::vector<Chart> occupancy_charts(const Lines& lines) {
  std::vector<Chart> charts;
  for (const auto& line : lines) {
    if (!line.contains("occupancy") || !line["occupancy"].is_array()) {
      continue;
    }
    const auto& layers = line["occupancy"];
    for (size_t layer = charts.size(); layer < layers.size(); ++layer) {
      charts.push_back({fmt::format("block {}: groups", layer), {}, true, false});
    }
    for (size_t layer = 0; layer < layers.size(); ++layer) {
      auto& curves = charts[layer].curves;
      curves.resize(std::max(curves.size(), layers[layer].size()));
      for (size_t group = 0; group < layers[layer].size(); ++group) {
        curves[group].points.emplace_back(line["step"].get<double>(), layers[layer][group].get<double>());
      }
    }
  }
  for (Chart& chart : charts) {
    for (Curve& curve : chart.curves) {
      curve.points = thin_out(curve.points, kMostPoints / 2);
    }
  }
  return charts;
}

}  // namespace

std::string plot_metrics(const Lines& lines, const std::string& heading) {
  Chart loss{"loss", {}};
  add_curve(loss, curve_of(lines, "loss", "loss"));
  MOGA_CHECK(!loss.curves.empty(), "{}: no step has a loss yet", heading);
  add_curve(loss, curve_of(lines, "flow", "flow"));
  std::vector<Chart> charts = {loss};
  const auto add = [&](Chart chart) {
    if (!chart.curves.empty()) {
      charts.push_back(std::move(chart));
    }
  };
  add(validation_chart(lines));
  add(one_curve(lines, "psnr_db", "PSNR [dB]"));
  add(one_curve(lines, "balance", "balancing loss, sum over layers"));
  add(one_curve(lines, "sparsity", "sparsity: pairs of tokens that do not meet"));
  add(one_curve(lines, "gradient_norm", "gradient norm"));
  add(one_curve(lines, "learning_rate", "learning rate"));
  add(one_curve(lines, "samples_per_second", "films a second"));

  constexpr double kWidth = 900;
  std::string body;
  double bottom = 34;
  const auto place = [&](const std::vector<Chart>& some, size_t columns, double height) {
    const double width = (kWidth - 20) / static_cast<double>(columns);
    for (size_t i = 0; i < some.size(); ++i) {
      const size_t row = i / columns;
      const size_t column = i % columns;
      body += draw_chart(some[i], {10 + width * static_cast<double>(column),
                                   bottom + height * static_cast<double>(row), width, height});
    }
    const size_t rows = (some.size() + columns - 1) / columns;
    bottom += height * static_cast<double>(rows);
  };
  place(charts, 2, 200);
  place(occupancy_charts(lines), 5, 130);
  return svg_document(kWidth, bottom + 10, heading, body);
}

std::filesystem::path plot_run(const std::filesystem::path& work) {
  std::filesystem::path file = work / "metrics.svg";
  write_file_atomic(file, plot_metrics(read_metrics(work), work.string()));
  return file;
}

}  // namespace moga
