// What a transformer block does to rows of channels between its matrix products, each in one pass over
// memory, with its gradient. The formulas are those of kernels/ref/row_kernels_ref.h. float32, dense rows; x
// and y may be the same memory in the forward functions. Threads are OpenMP's; results do not depend on how
// many there are.
#pragma once

#include <cstdint>

namespace moga::cpu {

struct RowShape {
  int64_t rows = 0;             // all samples'
  int64_t channels = 0;         // a multiple of 4
  int64_t rows_per_sample = 1;  // divides rows
  float eps = 1e-6F;
};

// y = xhat * (1 + scale) + shift. scale and shift: rows of `channels`, one a sample, `sample_stride` floats
// apart.
void norm_modulate(const RowShape& shape, const float* x, const float* scale, const float* shift,
                   int64_t sample_stride, float* y);
// dscale, dshift: [samples, C] dense.
void norm_modulate_backward(const RowShape& shape, const float* x, const float* scale, int64_t sample_stride,
                            const float* dy, float* dx, float* dscale, float* dshift);

// y = turned(x * r * weight), heads of `dim` channels (even). cos, sin: [rows_per_sample, dim / 2], or null
// for no turning.
void rms_norm_rope(const RowShape& shape, int64_t dim, const float* x, const float* weight, const float* cos,
                   const float* sin, float* y);
void rms_norm_rope_backward(const RowShape& shape, int64_t dim, const float* x, const float* weight,
                            const float* cos, const float* sin, const float* dy, float* dx, float* dweight);

// y = x w^T + bias for few outputs: x [R, C], w [M, C], bias [M], y [R, M]. A matrix product of a library
// packs x first, which takes longer than the product where M is below a dozen. C: a multiple of 4.
void row_products(int64_t rows, int64_t channels, int64_t outputs, const float* x, const float* w,
                  const float* bias, float* y);

}  // namespace moga::cpu
