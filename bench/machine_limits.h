// What the machine could do at most, measured in the run that is compared with it.
#pragma once

#include <dlfcn.h>
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <string>

#include "kernels/cpu/machine_peak.h"

namespace moga::bench {

inline double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The processor that libtorch's OpenBLAS multiplies for: its own choice unless OPENBLAS_CORETYPE says
// otherwise.
inline std::string blas_core() {
  auto* name = reinterpret_cast<char* (*)()>(dlsym(RTLD_DEFAULT, "openblas_get_corename"));
  return name != nullptr ? std::string("OpenBLAS for ") + name() : "not OpenBLAS";
}

// The best seen so far, in GFLOP/s: each call measures again for a moment, since clock rates wander and other
// programs interfere.
struct MachineLimits {
  double fma = 0;    // fused multiply-adds that touch nothing but registers, on the kernels' instruction set
  double sgemm = 0;  // libtorch's float32 product of 2048^3

  void measure() {
    fma = std::max(fma, cpu::fma_peak_gflops(0.2));
    constexpr int64_t kSize = 2048;
    const c10::InferenceMode no_autograd;
    const torch::Tensor a = torch::full({kSize, kSize}, 0.5F), b = torch::full({kSize, kSize}, 0.25F);
    torch::Tensor out = torch::empty({kSize, kSize});
    for (int i = 0; i < 5; ++i) {
      const double start = now_seconds();
      torch::mm_out(out, a, b);
      sgemm = std::max(sgemm, 2e-9 * kSize * kSize * kSize / (now_seconds() - start));
    }
  }
};

inline MachineLimits& limits() {
  static MachineLimits value;
  return value;
}

}  // namespace moga::bench
