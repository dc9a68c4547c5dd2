// The table for people and the JSON for documents that the GPU benchmarks print.
#pragma once

#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "base/atomic_file.h"
#include "bench/cuda_timing.h"

namespace moga::bench {

class Report {
 public:
  Report(GpuLimits limits, std::string file) : limits_(limits), file_(std::move(file)) {
    const auto* device = device_properties();
    result_["gpu"] = device->name;
    result_["gpu_memory_gb"] = static_cast<double>(device->totalGlobalMem) * 1e-9;
    result_["libtorch"] = TORCH_VERSION;
    result_["gemm_8192_bf16_tflops"] = limits.gemm_tflops;
    result_["copy_gb_per_s"] = limits.copy_gigabytes;
    result_["rows"] = nlohmann::json::array();
    fmt::print("{}, libtorch {}: 8192^3 bf16 product {:.0f} TFLOP/s, copy {:.0f} GB/s\n", device->name,
               TORCH_VERSION, limits.gemm_tflops, limits.copy_gigabytes);
  }

  // Writes after each row, so that what was measured outlives a program that runs out of memory. `flops` of
  // all GPUs, of which row["gpus"] says how many; rates are a GPU's.
  void add(nlohmann::json row, double flops) {
    const double ms = row["ms"];
    const double rate = flops / ms * 1e-9 / static_cast<double>(row.value("gpus", 1));  // TFLOP/s
    if (flops > 0) {
      row["pflop"] = flops * 1e-15;
      row["tflops"] = rate;
      row["of_gemm"] = rate / limits_.gemm_tflops;
    }
    std::string line =
        fmt::format("{:<14} {:>7} tokens  {:<22} {:<18}{:>10.3f} ms", row.value("what", ""),
                    row.value("tokens", int64_t{0}), row.value("case", ""), row.value("pass", ""), ms);
    if (flops > 0) {
      line += fmt::format("  {:7.3f} PFLOP {:6.0f} TFLOP/s {:5.1f} % of product", flops * 1e-15, rate,
                          100 * rate / limits_.gemm_tflops);
    }
    for (const char* share : {"speedup", "outside_kernels", "exchange_ms", "difference"}) {
      if (row.contains(share)) {
        line += fmt::format("  {} {:.3f}", share, row[share].get<double>());
      }
    }
    line += fmt::format("  host {:.2f} ms  {:.1f} GB  n={}", row["host_ms"].get<double>(),
                        row["peak_gb"].get<double>(), row["repeats"].get<int>());
    fmt::print("{}\n", line);
    std::fflush(stdout);
    result_["rows"].push_back(std::move(row));
    if (!file_.empty()) {
      write_file_atomic(file_, result_.dump(1) + "\n");
    }
  }

 private:
  static const cudaDeviceProp* device_properties() {
    static cudaDeviceProp properties;
    check_cuda(cudaGetDeviceProperties(&properties, 0));
    return &properties;
  }

  GpuLimits limits_;
  std::string file_;
  nlohmann::json result_;
};

inline nlohmann::json row_of(const std::string& what, int64_t tokens, const std::string& name,
                             const std::string& pass, const GpuTime& time) {
  return {{"what", what},
          {"tokens", tokens},
          {"case", name},
          {"pass", pass},
          {"ms", time.ms},
          {"host_ms", time.host_ms},
          {"peak_gb", time.peak_gb},
          {"repeats", time.repeats}};
}

}  // namespace moga::bench
