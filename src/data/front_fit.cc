#include "data/front_fit.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

namespace moga {

double fit_sweep(const FrameWindow& w, int64_t a, int64_t b) {
  double best = 0;
  for (const bool columns : {true, false}) {
    std::array<double, 2> on{};  // forward and backward
    double all = 0;
    double chance = 0;
    for (int64_t j = a + 1; j <= b; ++j) {
      const std::vector<float>& steps = columns ? w.column_steps(j) : w.row_steps(j);
      const auto cells = static_cast<int64_t>(steps.size()) - 1;
      // In this step the front passes from one place to the other; a cell on either side may be touched.
      const int64_t from = std::max<int64_t>(0, cells * (j - 1 - a) / (b - a) - 1);
      const int64_t to = std::min(cells, (cells * (j - a) + b - a - 1) / (b - a) + 1);
      const auto between = [&](int64_t first, int64_t last) {
        return steps[static_cast<size_t>(last)] - steps[static_cast<size_t>(first)];
      };
      on[0] += between(from, to);
      on[1] += between(cells - to, cells - from);
      all += steps.back();
      chance += static_cast<double>(to - from) / static_cast<double>(cells * (b - a));
    }
    if (all > 0 && chance < 1) {
      best = std::max(best, (std::max(on[0], on[1]) / all - chance) / (1 - chance));
    }
  }
  return best;
}

double unevenness(const FrameWindow& w, int64_t a, int64_t b) {
  std::vector<double> change = w.cell_differences(a, b);
  double total = 0;
  for (const double one : change) {
    total += one;
  }
  double worst = 0;
  for (int64_t j = a + 1; j < b && total > 0; ++j) {
    const std::vector<double> to_first = w.cell_differences(a, j);
    const std::vector<double> to_last = w.cell_differences(j, b);
    double taken = 0;
    for (size_t i = 0; i < change.size(); ++i) {
      taken += to_last[i] < to_first[i] ? change[i] : 0;
    }
    const double even = static_cast<double>(j - a) / static_cast<double>(b - a);
    worst = std::max(worst, std::abs(taken / total - even));
  }
  return worst;
}

}  // namespace moga
