// The instruction sets that the kernels are compiled for. To be included before anything of Highway.
// Left out: sets that would only repeat the code of their neighbours (their additions are of no use here),
// and Arm's SVE, whose vectors have no size that register tiles could be cut to (NEON runs there).
#pragma once

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#if defined(__x86_64__)
#define HWY_BASELINE_TARGETS HWY_SSE4  // the least that is made: all x86 since 2008 has it
#endif
