#include "base/threads.h"

#include <dlfcn.h>
#include <malloc.h>
#include <omp.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "base/error.h"

namespace moga {

int thread_count() {
  if (const char* text = std::getenv("MOGA_THREADS"); text != nullptr && *text != '\0') {
    char* end = nullptr;
    const long value = std::strtol(text, &end, 10);
    MOGA_CHECK(*end == '\0' && value >= 1 && value <= 1024,
               "MOGA_THREADS must be a whole number from 1 to 1024, found '{}'", text);
    return static_cast<int>(value);
  }
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) {
    return 1;
  }
  return std::max(1, CPU_COUNT(&set));
}

void tune_runtime(char** argv) {
  bool changed = false;
  const auto set_unless = [&](const char* name, const char* value) {
    if (std::getenv(name) == nullptr) {
      changed = setenv(name, value, /*overwrite=*/0) == 0 || changed;
    }
  };
  if (std::getenv("OMP_WAIT_POLICY") == nullptr) {
    set_unless("GOMP_SPINCOUNT", "1000");
  }
  set_unless("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");
  if (changed) {
    execv("/proc/self/exe", argv);  // returns only if it failed: then all works, slower
  }
}

void init_threads() {
  const int count = thread_count();
  omp_set_num_threads(count);
  // OpenBLAS need not be the BLAS that libtorch loaded, so ask the running process for its setter.
  using SetThreads = void (*)(int);
  if (auto* set = reinterpret_cast<SetThreads>(dlsym(RTLD_DEFAULT, "openblas_set_num_threads"))) {
    set(count);
  }
  constexpr int kKeepBytes = 1 << 30;
  mallopt(M_MMAP_THRESHOLD, kKeepBytes);
  mallopt(M_TRIM_THRESHOLD, kKeepBytes);
}

void release_free_memory() {
  malloc_trim(0);
}

}  // namespace moga
