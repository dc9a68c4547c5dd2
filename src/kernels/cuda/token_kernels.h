// What a GPU does around attention over groups: rows of tokens gathered, scattered and summed by index, the
// router's softmax, and the stable sort of tokens by group. CUDA, plain pointers, no libtorch.
//
// All pointers are device memory. Every function only queues work on `stream`: nothing waits, nothing is
// allocated, so all of it can be recorded in a CUDA graph. Results are the same bits in every run. Each
// function returns nullptr, or CUDA's words for what went wrong at the launch.
//
// Slots are the entries of a Groups' index; a slot's row belongs to token index[slot].
#pragma once

#include <cstdint>

struct CUstream_st;

namespace moga::cuda {

using Stream = CUstream_st*;  // cudaStream_t, so that callers need no CUDA headers

enum class Element { kFloat32, kFloat16, kBfloat16 };

constexpr int64_t kRowAlignment = 16;  // bytes: of every row's start and of its size

// to[slot] = from[index[slot]]. Rows of `to` lie one after another.
struct RowGather {
  const void* from = nullptr;
  int64_t from_stride = 0;         // bytes from row to row, a multiple of kRowAlignment
  const int64_t* index = nullptr;  // [slots]
  void* to = nullptr;
  int64_t slots = 0;
};
constexpr int kMostGathers = 4;
// Up to kMostGathers gathers in one launch, all of rows of row_bytes.
const char* gather_rows(const RowGather* jobs, int count, int64_t row_bytes, Stream stream);

// to[index[slot]] (+)= factor * scale[index[slot]] * from[slot], for an index that holds no token twice. Sums
// in float32, rounded once.
struct RowScatter {
  Element element = Element::kFloat32;
  const void* from = nullptr;      // [slots, width]
  const int64_t* index = nullptr;  // [slots]; nullptr: 0, 1, ..
  const float* scale = nullptr;    // [tokens]; nullptr: ones
  float factor = 1;
  bool add = false;    // to what is there; otherwise it is overwritten
  void* to = nullptr;  // [tokens, width]
  int64_t slots = 0;
  int64_t width = 0;  // elements; width * element size is a multiple of kRowAlignment
};
const char* scatter_rows(const RowScatter& job, Stream stream);

// The gradients of scatter_rows() and sum_rows(), for any index: with t = index[slot],
//   from_grad[slot] = factor * scale[t] * to_grad[t]
//   scale_grad[slot] = factor * sum over the row of to_grad[t] * from[slot]
struct RowScatterGradient {
  Element element = Element::kFloat32;
  const void* to_grad = nullptr;   // [tokens, width]
  const void* from = nullptr;      // [slots, width]; read only for scale_grad
  const int64_t* index = nullptr;  // [slots]; nullptr: 0, 1, ..
  const float* scale = nullptr;    // [tokens]; nullptr: ones
  float factor = 1;
  void* from_grad = nullptr;    // [slots, width]
  float* scale_grad = nullptr;  // [slots] or nullptr
  int64_t slots = 0;
  int64_t width = 0;
};
const char* scatter_rows_gradient(const RowScatterGradient& job, Stream stream);

// to[t] (+)= factor * scale[t] * the sum of from[slots[j]] over j in [starts[t], starts[t + 1]): for tokens
// that have several slots or none, through the inverse of their index. Sums in float32 in the order of
// `slots`.
struct RowSum {
  Element element = Element::kFloat32;
  const void* from = nullptr;       // [slots, width]
  const int64_t* starts = nullptr;  // [tokens + 1]
  const int64_t* slots = nullptr;
  const float* scale = nullptr;  // [tokens]; nullptr: ones
  float factor = 1;
  bool add = false;
  void* to = nullptr;  // [tokens, width]
  int64_t tokens = 0;
  int64_t width = 0;
};
const char* sum_rows(const RowSum& job, Stream stream);

// Softmax of each token's scores in float32, the group of the highest score (the lowest of equals) and its
// probability.
struct Route {
  Element element = Element::kFloat32;
  const void* scores = nullptr;  // [tokens, groups]
  float* probs = nullptr;        // [tokens, groups]
  int64_t* ids = nullptr;        // [tokens]
  float* top = nullptr;          // [tokens]
  int64_t tokens = 0;
  int64_t groups = 0;
};
const char* route_tokens(const Route& job, Stream stream);

constexpr int64_t kMostSortedGroups = 256;

// The stable counting sort of each sample's tokens by group id. An id outside [0, groups) stops the kernel
// with an illegal-instruction error.
struct GroupSort {
  const int64_t* ids = nullptr;  // [batch * tokens]
  int64_t batch = 0;
  int64_t tokens = 0;          // a sample
  int64_t groups = 0;          // at most kMostSortedGroups
  int64_t* order = nullptr;    // [batch * tokens]: tokens, segment by segment
  int64_t* offsets = nullptr;  // [batch * groups + 1]: segment = sample * groups + group
  void* workspace = nullptr;   // group_sort_workspace() bytes
};
int64_t group_sort_workspace(int64_t batch, int64_t tokens, int64_t groups);
const char* sort_groups(const GroupSort& job, Stream stream);

}  // namespace moga::cuda
