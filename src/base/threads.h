// Every thread pool at all cores, set once at start.
#pragma once

#include <string_view>

namespace moga {

// Cores this process may run on (its affinity mask); MOGA_THREADS overrides it. At least 1.
int thread_count();

// The OPENBLAS_CORETYPE that makes OpenBLAS multiply with what the CPU has; empty if `core`, the processor
// that it took this one for (openblas_get_corename()), is good enough. A CPU that is newer than the library
// is taken for a Prescott: SGEMM with SSE, a fifth of the rate with AVX-512 (docs/performance.md).
std::string_view openblas_core_type(std::string_view core, bool avx2, bool avx512, bool avx512_bf16);

// Call first thing in main(). Some settings are read when libraries are loaded, so this sets them and starts
// the program again in place, once. Does nothing where the user has set them.
// - GOMP_SPINCOUNT (or OMP_WAIT_POLICY): GNU OpenMP's threads spin for long while they wait for each other,
//   fine on an idle machine and ruinous on a busy one (a 1.6 s film took 88 s beside one compiler).
// - GLIBC_TUNABLES: large blocks in huge pages. Rows of attention lie far apart and miss the address cache at
//   every step otherwise (2 to 4 % of a forward pass; docs/performance.md).
// - OPENBLAS_CORETYPE: see above.
void tune_runtime(char** argv);

// Sets OpenMP and OpenBLAS to thread_count() and raises glibc's malloc thresholds, so that large blocks are
// reused instead of being handed back to the kernel (page faults cost 2.6x in a grouped-attention loop).
// libtorch's and OpenCV's pools are set where those libraries are linked.
void init_threads();

// Gives the free memory back that init_threads() has malloc keep: for the moment when a large network was
// dropped.
void release_free_memory();

}  // namespace moga
