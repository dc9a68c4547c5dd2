#include "base/threads.h"

#include <dlfcn.h>
#include <malloc.h>
#include <omp.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
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

std::string_view openblas_core_type(std::string_view core, bool avx2, bool avx512, bool avx512_bf16) {
  // OpenBLAS's names for processors without AVX2, from its list of cores.
  constexpr std::array kOld = {"Katmai", "Coppermine",  "Northwood",     "Prescott",   "Banias",
                               "Atom",   "Core2",       "Penryn",        "Dunnington", "Nehalem",
                               "Athlon", "Opteron",     "Opteron(SSE3)", "Barcelona",  "Bobcat",
                               "Nano",   "Sandybridge", "Bulldozer",     "Piledriver"};
  if (!avx2 || std::find(kOld.begin(), kOld.end(), core) == kOld.end()) {
    return "";
  }
  return avx512_bf16 ? "Cooperlake" : avx512 ? "SkylakeX" : "Haswell";
}

namespace {

std::string_view openblas_core_type_here() {
#if defined(__x86_64__)
  // The OpenBLAS that the dynamic linker has loaded, if it has.
  if (auto* core = reinterpret_cast<const char* (*)()>(dlsym(RTLD_DEFAULT, "openblas_get_corename"))) {
    return openblas_core_type(core(), __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"),
                              __builtin_cpu_supports("avx512vl"), __builtin_cpu_supports("avx512bf16"));
  }
#endif
  return "";
}

}  // namespace

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
  if (const std::string_view core = openblas_core_type_here(); !core.empty()) {
    set_unless("OPENBLAS_CORETYPE", core.data());
  }
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
