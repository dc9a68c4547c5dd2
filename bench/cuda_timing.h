// Times of GPU work, and what the GPU could do at most, measured in the run that is compared with it.
#pragma once

#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <optional>
#include <vector>

#include "base/error.h"

namespace moga::bench {

inline void check_cuda(cudaError_t error) {
  MOGA_CHECK(error == cudaSuccess, "CUDA: {}", cudaGetErrorString(error));
}

class GpuEvent {
 public:
  GpuEvent() { check_cuda(cudaEventCreate(&event_)); }
  ~GpuEvent() { cudaEventDestroy(event_); }
  GpuEvent(const GpuEvent&) = delete;
  GpuEvent& operator=(const GpuEvent&) = delete;

  void record() { check_cuda(cudaEventRecord(event_, c10::cuda::getCurrentCUDAStream().stream())); }
  double milliseconds_since(const GpuEvent& begin) const {
    check_cuda(cudaEventSynchronize(event_));
    float value = 0;
    check_cuda(cudaEventElapsedTime(&value, begin.event_, event_));
    return value;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

struct GpuTime {
  double ms = 0;       // median, between events on the stream
  double host_ms = 0;  // median of what queueing took
  int repeats = 0;
  double peak_gb = 0;  // most memory in use at any moment of it
};

inline double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

inline double peak_gigabytes() {
  constexpr size_t kAllPools = 0;
  return static_cast<double>(c10::cuda::CUDACachingAllocator::getDeviceStats(c10::cuda::current_device())
                                 .allocated_bytes.at(kAllPools)
                                 .peak) *
         1e-9;
}

// The median of at most `most` runs after one for warming up, fewer where they would take longer than a
// second in all.
inline GpuTime time_on_gpu(int most, const std::function<void()>& body) {
  torch::cuda::synchronize();
  c10::cuda::CUDACachingAllocator::resetPeakStats(c10::cuda::current_device());
  std::vector<double> times;
  std::vector<double> host;
  const auto once = [&] {
    GpuEvent begin;
    GpuEvent end;
    begin.record();
    const auto start = std::chrono::steady_clock::now();
    body();
    host.push_back(
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    end.record();
    times.push_back(end.milliseconds_since(begin));
  };
  once();
  once();  // the first includes loading kernels and making plans
  constexpr double kBudgetMs = 1000;
  const int repeats = std::clamp(static_cast<int>(kBudgetMs / std::max(times.back(), 1e-3)), 1, most);
  for (int i = 1; i < repeats; ++i) {
    once();
  }
  times.erase(times.begin());
  host.erase(host.begin());
  return {median(times), median(host), static_cast<int>(times.size()), peak_gigabytes()};
}

struct GpuLimits {
  double gemm_tflops = 0;     // libtorch's bfloat16 product of 8192^3 on random numbers
  double copy_gigabytes = 0;  // a second, read and written counted
};

inline GpuLimits measure_gpu_limits() {
  const c10::InferenceMode mode;
  const auto half = torch::TensorOptions().device(torch::kCUDA).dtype(torch::kBFloat16);
  constexpr int64_t kSize = 8192;
  GpuLimits limits;
  {
    const auto a = torch::randn({kSize, kSize}, half), b = torch::randn({kSize, kSize}, half);
    auto out = torch::empty({kSize, kSize}, half);
    const double ms = time_on_gpu(50, [&] { torch::mm_out(out, a, b); }).ms;
    limits.gemm_tflops = 2.0 * kSize * kSize * kSize / ms * 1e-9;
  }
  {
    const auto from = torch::randn({int64_t{1} << 30}, half);
    auto to = torch::empty_like(from);
    const double ms = time_on_gpu(20, [&] { to.copy_(from); }).ms;
    limits.copy_gigabytes = 2.0 * static_cast<double>(from.nbytes()) / ms * 1e-6;
  }
  return limits;
}

}  // namespace moga::bench
