// Which of libtorch's fused attention kernels serves a set of segments best.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "base/config.h"

namespace moga {

enum class FusedBackend {
  kFlash,        // libtorch's flash attention over segments of any lengths
  kCudnnVarlen,  // cuDNN's, over segments of any lengths
  kCudnnDense,   // cuDNN's, over segments that all have one length: a plain batch
};
template <>
struct EnumNames<FusedBackend> {
  static constexpr std::array<std::pair<FusedBackend, const char*>, 3> kNames = {
      {{FusedBackend::kFlash, "flash"},
       {FusedBackend::kCudnnVarlen, "cudnn_varlen"},
       {FusedBackend::kCudnnDense, "cudnn_dense"}}};
};

struct FusedCase {
  int64_t heads = 0;
  int64_t head_size = 0;
  int64_t segments = 0;
  int64_t longest_q = 0;   // or what bounds it
  int64_t longest_kv = 0;  // or what bounds it
  double flop = 0;         // of a forward pass; estimated with even segments where sizes are on the device
  bool equal = false;      // every segment has longest_q queries and longest_kv keys
  bool self = false;       // queries and keys have the same offsets: no query is without keys
  bool backward = false;   // a backward pass will follow
  bool capturing = false;  // a CUDA graph is being recorded
  int capability = 0;      // of the device: 90 for 9.0
  bool cudnn = false;      // libtorch has cuDNN's attention
};

// What a backend can do at all.
bool can_serve(FusedBackend backend, const FusedCase& c);
// The fastest that can, by docs/performance.md's measurements.
FusedBackend choose_backend(const FusedCase& c);

// For measurements and tests: the backend wherever it can serve, for the whole process; absent:
// choose_backend().
void force_backend(std::optional<FusedBackend> backend);
std::optional<FusedBackend> forced_backend();

}  // namespace moga
