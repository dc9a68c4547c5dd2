// The scalar oracle of grouped attention: plain loops in double, made to be read and to judge the fast ones.
//
// Dimensions: L query tokens, K key tokens, N heads, D head size, Q query slots (entries of q_index).
// For query slot i of a segment, token t = q_index[i], and the segment's keys j (scale usually 1/sqrt(D)):
//
//   s_ij   = scale * sum_d q[t,d] k[j,d]
//   lse_i  = log sum_j exp(s_ij)
//   p_ij   = exp(s_ij - lse_i)
//   o_i    = sum_j p_ij v[j]
//   out[t] = row_scale[t] * sum over the slots i of t of o_i
//
// and, with g_i = row_scale[t] * dout[t]:
//
//   dv[j] += p_ij g_i      dp_ij = g_i . v[j]      ds_ij = p_ij (dp_ij - sum_j p_ij dp_ij)
//   dq[t] += scale * ds_ij k[j]      dk[j] += scale * ds_ij q[t]      drow_scale[t] += sum over heads of
//   dout[t] . o_i
//
// A segment without keys gives o_i = 0 and lse_i = -inf; a token in no segment keeps out = 0. Arguments are
// trusted.
#pragma once

#include <array>
#include <cstdint>

namespace moga::ref {

// x[t, n, d] = data[t * stride[0] + n * stride[1] + d * stride[2]].
template <typename T>
struct View {
  T* data = nullptr;
  std::array<int64_t, 3> extent = {};
  std::array<int64_t, 3> stride = {};

  T& operator()(int64_t t, int64_t n, int64_t d) const {
    return data[t * stride[0] + n * stride[1] + d * stride[2]];
  }
};

struct Segments {
  int64_t count = 0;
  const int64_t* q_index = nullptr;
  const int64_t* q_offsets = nullptr;  // count + 1
  const int64_t* kv_index = nullptr;
  const int64_t* kv_offsets = nullptr;  // count + 1
};

struct Inputs {
  View<const double> q;  // [L, N, D]
  View<const double> k;  // [K, N, D]
  View<const double> v;  // [K, N, D]
  Segments segments;
  const double* row_scale = nullptr;  // [L] or null for ones
  double scale = 1.0;
};

// Overwrites out [L, N, D] and lse [Q, N] (dense).
void grouped_attention_forward(const Inputs& in, const View<double>& out, double* lse);

struct Gradients {
  View<double> q;               // [L, N, D]
  View<double> k;               // [K, N, D]
  View<double> v;               // [K, N, D]
  double* row_scale = nullptr;  // [L] or null
};

// Overwrites the gradients, given dout [L, N, D].
void grouped_attention_backward(const Inputs& in, const View<const double>& dout, const Gradients& grad);

}  // namespace moga::ref
