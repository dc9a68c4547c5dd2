// What every benchmark program does first.
#pragma once

#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>

#include "base/threads.h"

namespace moga::bench {

// Threads and memory as in `moga`, then the library's own options. False if one is unknown, which it has
// said.
inline bool start(int& argc, char** argv) {
  tune_runtime(argv);
  init_threads();
  at::set_num_threads(thread_count());
  benchmark::Initialize(&argc, argv);
  return !benchmark::ReportUnrecognizedArguments(argc, argv);
}

}  // namespace moga::bench
