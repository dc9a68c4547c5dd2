#include "attention/fused_backend.h"

#include <atomic>

namespace moga {
namespace {

std::atomic<int> forced_value = -1;

}  // namespace

bool can_serve(FusedBackend backend, const FusedCase& c) {
  const bool cudnn = c.cudnn && c.capability >= 80 && c.head_size % 8 == 0 && c.head_size <= 128 &&
                     c.longest_q > 0 && c.longest_kv > 0;
  switch (backend) {
    case FusedBackend::kFlash:
      return true;
    case FusedBackend::kCudnnDense:
      return cudnn && c.equal;
    case FusedBackend::kCudnnVarlen:
      // A plan of cuDNN for such segments lives no longer than the call that made it, so a recorded graph
      // must not hold its kernels. Its gradients of q and k were wrong where segments' lengths differ much
      // (libtorch 2.11).
      return cudnn && c.self && !c.capturing && !c.backward;
  }
  return false;
}

FusedBackend choose_backend(const FusedCase& c) {
  // Flash attention as libtorch ships it does not use what is new in Hopper; cuDNN does.
  const bool hopper = c.capability >= 90;
  constexpr int64_t kShort = 512;  // where launching is what takes the time
  if (hopper && c.longest_kv >= kShort && can_serve(FusedBackend::kCudnnDense, c)) {
    return FusedBackend::kCudnnDense;
  }
  // cuDNN makes a plan for segments of different lengths in every call, about 30 ms of the host's time, which
  // must hide behind the device's: flash attention takes longer than that from 11 TFLOP on.
  constexpr double kLong = 20e12;
  if (hopper && !c.backward && c.flop >= kLong && can_serve(FusedBackend::kCudnnVarlen, c)) {
    return FusedBackend::kCudnnVarlen;
  }
  return FusedBackend::kFlash;
}

void force_backend(std::optional<FusedBackend> backend) {
  forced_value = backend ? static_cast<int>(*backend) : -1;
}

std::optional<FusedBackend> forced_backend() {
  const int value = forced_value;
  return value < 0 ? std::nullopt : std::optional(static_cast<FusedBackend>(value));
}

}  // namespace moga
