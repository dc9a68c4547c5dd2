// The machine's limit of arithmetic.
#pragma once

namespace moga::cpu {

// Fused multiply-adds (two FLOPs each; multiply, then add, where the instruction set has none) on registers
// alone, on the kernels' instruction set and all threads: the best of short runs during `seconds`, GFLOP/s.
double fma_peak_gflops(double seconds);

}  // namespace moga::cpu
