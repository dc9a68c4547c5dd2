#include "model/tensor_memory.h"

#include <c10/core/Allocator.h>

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <map>

namespace moga {

namespace {

// The type of the totals that are reported: int64_t, or size_t in newer libtorch.
template <typename Method>
struct TotalOf;
template <typename Class, typename Total>
struct TotalOf<void (Class::*)(void*, int64_t, Total, Total, c10::Device)> {
  using Type = Total;
};
using ReportedTotal = TotalOf<decltype(&c10::MemoryReportingInfoBase::reportMemoryUsage)>::Type;

}  // namespace

class TensorMemory::Counter : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void* pointer, int64_t size, ReportedTotal, ReportedTotal,
                         c10::Device device) override {
    if (!device.is_cpu()) {
      return;
    }
    auto* begin = static_cast<std::byte*>(pointer);
    if (size < 0) {
      if (blocks.erase(begin) > 0) {
        bytes += size;
      }
      return;
    }
    // What lies where the new block does was freed by another thread, of a process group say.
    auto block = blocks.lower_bound(begin);
    if (block != blocks.begin() && std::prev(block)->first + std::prev(block)->second > begin) {
      --block;
    }
    while (block != blocks.end() && block->first < begin + size) {
      bytes -= block->second;
      block = blocks.erase(block);
    }
    blocks[begin] = size;
    bytes += size;
    peak = std::max(peak, bytes);
  }
  bool memoryProfilingEnabled() const override { return true; }

  std::map<std::byte*, int64_t> blocks;
  int64_t bytes = 0;
  int64_t peak = 0;
};

TensorMemory::TensorMemory()
    : counter_(std::make_shared<Counter>()), guard_(c10::DebugInfoKind::PROFILER_STATE, counter_) {}

int64_t TensorMemory::bytes() const {
  return counter_->bytes;
}

int64_t TensorMemory::peak() const {
  return counter_->peak;
}

void TensorMemory::forget_peak() {
  counter_->peak = counter_->bytes;
}

}  // namespace moga
