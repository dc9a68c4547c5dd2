// How fast this machine multiplies matrices: the one number behind the planner's time estimates and `moga
// doctor`.
#pragma once

namespace moga {

// Single-precision GFLOP/s (10^9 multiply-adds counted as two operations) of libtorch's matrix product on the
// CPU with the threads it is set to. Repeats a 768 x 768 product for about `seconds` and takes the fastest
// repetition, because anything else that runs on the machine only ever makes it slower. At least two
// repetitions are timed however short `seconds` is; throws Error if `seconds` is not positive and finite.
double measured_sgemm_gflops(double seconds = 0.3);

}  // namespace moga
