// Every thread pool at all cores, set once at start.
#pragma once

namespace moga {

// Cores this process may run on (its affinity mask); MOGA_THREADS overrides it. At least 1.
int thread_count();

// Sets OpenMP and OpenBLAS to thread_count() and raises glibc's malloc thresholds, so that large blocks are
// reused instead of being handed back to the kernel (page faults cost 2.6x in a grouped-attention loop).
// Call first thing in main(). libtorch's and OpenCV's pools are set where those libraries are linked.
void init_threads();

}  // namespace moga
