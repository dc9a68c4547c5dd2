#include "pipeline/machine_rate.h"

#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/error.h"

namespace moga {

double measured_sgemm_gflops(double seconds) {
  MOGA_CHECK(std::isfinite(seconds) && seconds > 0.0,
             "SGEMM measurement: expected a positive number of seconds, found {}", seconds);
  using Clock = std::chrono::steady_clock;
  // Large enough to leave the caches' easy range (three 2.25 MiB matrices), small enough that a reference
  // BLAS (about 1 GFLOP/s) still finishes one product in a second.
  constexpr int kSize = 768;
  constexpr double kFlops = 2.0 * kSize * kSize * kSize;
  const c10::InferenceMode no_autograd;
  const torch::Tensor a = torch::full({kSize, kSize}, 0.5F);
  const torch::Tensor b = torch::full({kSize, kSize}, 0.25F);
  torch::Tensor out = torch::empty({kSize, kSize});
  torch::mm_out(out, a, b);  // Untimed: starts the thread pool, faults the pages in, wakes the vector units.

  double fastest = 0.0;
  double spent = 0.0;
  for (int repeat = 0; repeat < 2 || spent < seconds; ++repeat) {
    const auto start = Clock::now();
    torch::mm_out(out, a, b);
    const double elapsed = std::chrono::duration<double>(Clock::now() - start).count();
    spent += elapsed;
    fastest = std::max(fastest, kFlops / std::max(elapsed, 1e-9));
  }
  return fastest * 1e-9;
}

}  // namespace moga
