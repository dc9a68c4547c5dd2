// Scalar twins of the fused row operations of kernels/cpu, in double.
//
// R rows of C channels, rows_per_sample of them a sample. xhat = (x - mean) / sqrt(variance + eps) with the
// biased variance of the row; r = 1 / sqrt(mean(x^2) + eps).
#pragma once

#include <cstdint>

namespace moga::ref {

struct RowShape {
  int64_t rows = 0;
  int64_t channels = 0;
  int64_t rows_per_sample = 1;
  double eps = 1e-6;
};

// y = xhat * (1 + scale) + shift; scale and shift [samples, C].
void norm_modulate(const RowShape& shape, const double* x, const double* scale, const double* shift,
                   double* y);
// dx [R, C], dscale and dshift [samples, C], all overwritten.
void norm_modulate_backward(const RowShape& shape, const double* x, const double* scale, const double* dy,
                            double* dx, double* dscale, double* dshift);

// y = turned(x * r * weight): in each head of `dim` channels the pair (2j, 2j + 1) turns by the angle whose
// cosine and sine stand in cos, sin [rows_per_sample, dim / 2]. weight [C].
void rms_norm_rope(const RowShape& shape, int64_t dim, const double* x, const double* weight,
                   const double* cos, const double* sin, double* y);
void rms_norm_rope_backward(const RowShape& shape, int64_t dim, const double* x, const double* weight,
                            const double* cos, const double* sin, const double* dy, double* dx,
                            double* dweight);

}  // namespace moga::ref
