#include "kernels/cpu/machine_peak.h"

#include <omp.h>

#include <algorithm>
#include <chrono>

#include "kernels/cpu/attention_items.h"

namespace moga::cpu {

double fma_peak_gflops(double seconds) {
  const auto now = [] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  };
  const AttentionFunctions functions = attention_functions();
  constexpr int64_t kRounds = 200000;  // some milliseconds
  double best = 0;
  const double end = now() + seconds;
  do {
    double flops = 0;
    const double start = now();
#pragma omp parallel reduction(+ : flops)
    flops += functions.fma_burst(kRounds);
    best = std::max(best, flops / (now() - start) * 1e-9);
  } while (now() < end);
  return best;
}

}  // namespace moga::cpu
