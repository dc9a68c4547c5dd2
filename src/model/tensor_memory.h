// How much memory tensors take on the CPU, as libtorch's allocator reports it.
#pragma once

#include <c10/util/ThreadLocalDebugInfo.h>

#include <cstdint>
#include <memory>

namespace moga {

// Counts what this thread allocates and frees while it lives, and what autograd does on its behalf; scratch
// of kernels and BLAS is not libtorch's. What another thread frees is noticed when the memory is used again.
// It takes the place of libtorch's profiler for that time.
class TensorMemory {
 public:
  TensorMemory();

  int64_t bytes() const;  // allocated since the start and not freed
  int64_t peak() const;   // the most that bytes() has been
  void forget_peak();     // peak() starts again from bytes()

 private:
  class Counter;
  std::shared_ptr<Counter> counter_;
  c10::DebugInfoGuard guard_;
};

}  // namespace moga
