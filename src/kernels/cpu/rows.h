// Rows of channels in memory, as the CPU kernels see them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace moga::cpu {

enum class Storage { kFloat32, kBfloat16, kFloat16 };

inline size_t bytes_of(Storage storage) {
  return storage == Storage::kFloat32 ? 4 : 2;
}

// x[t, n, d] is element t * token_stride + n * head_stride + d: channels lie side by side, the rest is free.
struct Rows {
  const void* data = nullptr;
  Storage storage = Storage::kFloat32;
  int64_t tokens = 0;
  int64_t heads = 0;
  int64_t dim = 0;
  int64_t token_stride = 0;
  int64_t head_stride = 0;

  const void* row(int64_t token, int64_t head) const {
    return static_cast<const char*>(data) + offset(token, head);
  }
  // Of row (token, head), in bytes.
  ptrdiff_t offset(int64_t token, int64_t head) const {
    return static_cast<ptrdiff_t>(token * token_stride + head * head_stride) *
           static_cast<ptrdiff_t>(bytes_of(storage));
  }
};

struct MutableRows : Rows {
  void* mutable_row(int64_t token, int64_t head) const {
    return static_cast<char*>(const_cast<void*>(data)) + offset(token, head);
  }
};

}  // namespace moga::cpu
