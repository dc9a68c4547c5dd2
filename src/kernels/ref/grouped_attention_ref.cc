#include "kernels/ref/grouped_attention_ref.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace moga::ref {
namespace {

void clear(const View<double>& x) {
  for (int64_t t = 0; t < x.extent[0]; ++t) {
    for (int64_t n = 0; n < x.extent[1]; ++n) {
      for (int64_t d = 0; d < x.extent[2]; ++d) {
        x(t, n, d) = 0;
      }
    }
  }
}

double dot(const View<const double>& a, int64_t row_a, const View<const double>& b, int64_t row_b,
           int64_t head) {
  double sum = 0;
  for (int64_t d = 0; d < a.extent[2]; ++d) {
    sum += a(row_a, head, d) * b(row_b, head, d);
  }
  return sum;
}

// One query slot of one head: its keys' probabilities, and lse.
struct Row {
  int64_t slot;
  int64_t token;
  int64_t head;
  const int64_t* keys;
  std::vector<double> p;
  double lse;
};

// Calls body(row) for every head and every query slot; rows without keys have an empty p.
template <typename Body>
void for_each_row(const Inputs& in, const Body& body) {
  const Segments& segments = in.segments;
  for (int64_t head = 0; head < in.q.extent[1]; ++head) {
    for (int64_t s = 0; s < segments.count; ++s) {
      const int64_t* keys = segments.kv_index + segments.kv_offsets[s];
      const int64_t key_count = segments.kv_offsets[s + 1] - segments.kv_offsets[s];
      for (int64_t i = segments.q_offsets[s]; i < segments.q_offsets[s + 1]; ++i) {
        Row row = {i,
                   segments.q_index[i],
                   head,
                   keys,
                   std::vector<double>(static_cast<size_t>(key_count)),
                   -std::numeric_limits<double>::infinity()};
        if (key_count > 0) {
          for (int64_t j = 0; j < key_count; ++j) {
            row.p[j] = in.scale * dot(in.q, row.token, in.k, keys[j], head);
          }
          // The largest score goes out of the exponent, so that no score overflows.
          const double top = *std::max_element(row.p.begin(), row.p.end());
          double sum = 0;
          for (const double score : row.p) {
            sum += std::exp(score - top);
          }
          row.lse = top + std::log(sum);
          for (double& x : row.p) {
            x = std::exp(x - row.lse);
          }
        }
        body(row);
      }
    }
  }
}

double scale_of(const Inputs& in, int64_t token) {
  return in.row_scale != nullptr ? in.row_scale[token] : 1.0;
}

}  // namespace

void grouped_attention_forward(const Inputs& in, const View<double>& out, double* lse) {
  clear(out);
  for_each_row(in, [&](const Row& row) {
    lse[row.slot * in.q.extent[1] + row.head] = row.lse;
    for (size_t j = 0; j < row.p.size(); ++j) {
      for (int64_t d = 0; d < in.q.extent[2]; ++d) {
        out(row.token, row.head, d) += scale_of(in, row.token) * row.p[j] * in.v(row.keys[j], row.head, d);
      }
    }
  });
}

void grouped_attention_backward(const Inputs& in, const View<const double>& dout, const Gradients& grad) {
  clear(grad.q);
  clear(grad.k);
  clear(grad.v);
  if (grad.row_scale != nullptr) {
    std::fill_n(grad.row_scale, in.q.extent[0], 0.0);
  }
  for_each_row(in, [&](const Row& row) {
    std::vector<double> dp(row.p.size());
    double delta = 0;  // sum_j p_ij dp_ij before the row scale, which is dout . o_i
    for (size_t j = 0; j < row.p.size(); ++j) {
      dp[j] = dot(dout, row.token, in.v, row.keys[j], row.head);
      delta += row.p[j] * dp[j];
    }
    if (grad.row_scale != nullptr) {
      grad.row_scale[row.token] += delta;
    }
    const double row_scale = scale_of(in, row.token);
    for (size_t j = 0; j < row.p.size(); ++j) {
      const double ds = row.p[j] * row_scale * (dp[j] - delta);
      for (int64_t d = 0; d < in.q.extent[2]; ++d) {
        grad.v(row.keys[j], row.head, d) += row.p[j] * row_scale * dout(row.token, row.head, d);
        grad.q(row.token, row.head, d) += in.scale * ds * in.k(row.keys[j], row.head, d);
        grad.k(row.keys[j], row.head, d) += in.scale * ds * in.q(row.token, row.head, d);
      }
    }
  });
}

}  // namespace moga::ref
