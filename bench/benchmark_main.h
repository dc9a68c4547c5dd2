// What every benchmark program does first.
#pragma once

#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string>
#include <string_view>

#include "base/error.h"
#include "base/threads.h"
#include "kernels/cpu/grouped_attention_cpu.h"

namespace moga::bench {

// Threads and memory as in `moga`, then the library's own options and one of ours: --target=AVX2 holds the
// kernels to that instruction set (OPENBLAS_CORETYPE=Haswell does it for OpenBLAS). False if one is unknown,
// which has been said.
inline bool start(int& argc, char** argv) {
  tune_runtime(argv);
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    constexpr std::string_view kTarget = "--target=";
    const std::string_view argument = argv[i];
    if (!argument.starts_with(kTarget)) {
      argv[kept++] = argv[i];
      continue;
    }
    try {
      cpu::use_attention_target(std::string(argument.substr(kTarget.size())));
    } catch (const Error& error) {
      fmt::print(stderr, "{}; this machine has {}\n", error.what(),
                 fmt::join(cpu::attention_targets(), ", "));
      return false;
    }
  }
  argc = kept;
  init_threads();
  at::set_num_threads(thread_count());
  benchmark::Initialize(&argc, argv);
  return !benchmark::ReportUnrecognizedArguments(argc, argv);
}

}  // namespace moga::bench
