// What every benchmark program does first.
#pragma once

#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "base/threads.h"
#include "kernels/cpu/grouped_attention_cpu.h"

namespace moga::bench {

// Threads and memory as in `moga`, then the library's own options and one of ours: --target=AVX2 holds the
// kernels to that instruction set (OPENBLAS_CORETYPE=Haswell does it for OpenBLAS). False if one is unknown,
// which it has said.
inline bool start(int& argc, char** argv) {
  tune_runtime(argv);
  constexpr std::string_view kTarget = "--target=";
  argc = static_cast<int>(std::remove_if(argv + 1, argv + argc,
                                         [&](const char* text) {
                                           const std::string_view argument = text;
                                           if (!argument.starts_with(kTarget)) {
                                             return false;
                                           }
                                           cpu::use_attention_target(
                                               std::string(argument.substr(kTarget.size())));
                                           return true;
                                         }) -
                          argv);
  init_threads();
  at::set_num_threads(thread_count());
  benchmark::Initialize(&argc, argv);
  return !benchmark::ReportUnrecognizedArguments(argc, argv);
}

}  // namespace moga::bench
