// Where a pass's time goes: seconds in matrix products and in the attention kernel, as libtorch's profiler
// hooks see them.
#pragma once

#include <ATen/record_function.h>
#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "bench/machine_limits.h"

namespace moga::bench {

// Seconds in operations of a kind, those inside another of the same kind not counted again.
struct Clock {
  double seconds = 0;
  double start = 0;
  int depth = 0;

  void enter() {
    if (depth++ == 0) {
      start = now_seconds();
    }
  }
  void leave() {
    if (--depth == 0) {
      seconds += now_seconds() - start;
    }
  }
};
struct Clocks {
  Clock products;   // and convolutions
  Clock attention;  // with its packing
};
inline Clocks& clocks() {
  static Clocks value;
  return value;
}

// Runs the clocks while it lives.
class ClockHooks {
 public:
  ClockHooks()
      : handle_(
            at::addGlobalCallback(at::RecordFunctionCallback(on_start, on_end)
                                      .scopes({at::RecordScope::FUNCTION, at::RecordScope::USER_SCOPE}))) {}
  ~ClockHooks() { at::removeCallback(handle_); }
  ClockHooks(const ClockHooks&) = delete;
  ClockHooks& operator=(const ClockHooks&) = delete;

 private:
  static Clock* clock_of(const at::RecordFunction& function) {
    constexpr std::array<std::string_view, 12> kProducts = {
        "moga::cpu_linear",  "moga::cpu_linear_backward",
        "aten::linear",      "aten::matmul",
        "aten::addmm",       "aten::mm",
        "aten::bmm",         "aten::mv",
        "aten::addmv",       "aten::conv3d",
        "aten::convolution", "aten::convolution_backward"};
    const std::string_view name = function.name();
    if (name == "moga::cpu_attention") {
      return &clocks().attention;
    }
    return std::find(kProducts.begin(), kProducts.end(), name) != kProducts.end() ? &clocks().products
                                                                                  : nullptr;
  }
  static std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction& function) {
    if (Clock* clock = clock_of(function)) {
      clock->enter();
    }
    return nullptr;
  }
  static void on_end(const at::RecordFunction& function, at::ObserverContext*) {
    if (Clock* clock = clock_of(function)) {
      clock->leave();
    }
  }

  at::CallbackHandle handle_;
};

struct FastestPass {
  double seconds = 1e30;
  double products = 0;
  double attention = 0;
  double part = 0;
};

// Runs pass() until the library is content, which returns the seconds of a part of it that is neither
// products nor attention and is told apart, if any.
template <typename Pass>
FastestPass run_clocked(benchmark::State& state, const Pass& pass) {
  const ClockHooks hooks;
  FastestPass fastest;
  for (auto _ : state) {
    clocks() = {};
    const double start = now_seconds();
    const double part = pass();
    const double seconds = now_seconds() - start;
    state.SetIterationTime(seconds);
    if (seconds < fastest.seconds) {
      fastest = {seconds, clocks().products.seconds, clocks().attention.seconds, part};
    }
  }
  const double rest = fastest.seconds - fastest.products - fastest.attention - fastest.part;
  state.counters["products"] = fastest.products / fastest.seconds;
  state.counters["attention"] = fastest.attention / fastest.seconds;
  state.counters["other"] = rest / fastest.seconds;
  return fastest;
}

}  // namespace moga::bench
