#include "kernels/ref/row_kernels_ref.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace moga::ref {
namespace {

struct Statistics {
  double mean;
  double inverse;  // 1 / standard deviation
};

Statistics statistics_of(const RowShape& shape, const double* x) {
  double sum = 0;
  for (int64_t c = 0; c < shape.channels; ++c) {
    sum += x[c];
  }
  const double mean = sum / static_cast<double>(shape.channels);
  double squares = 0;
  for (int64_t c = 0; c < shape.channels; ++c) {
    squares += (x[c] - mean) * (x[c] - mean);
  }
  return {mean, 1 / std::sqrt(squares / static_cast<double>(shape.channels) + shape.eps)};
}

double inverse_rms(const RowShape& shape, const double* x) {
  double squares = 0;
  for (int64_t c = 0; c < shape.channels; ++c) {
    squares += x[c] * x[c];
  }
  return 1 / std::sqrt(squares / static_cast<double>(shape.channels) + shape.eps);
}

}  // namespace

void norm_modulate(const RowShape& shape, const double* x, const double* scale, const double* shift,
                   double* y) {
  for (int64_t r = 0; r < shape.rows; ++r) {
    const int64_t row = r * shape.channels;
    const int64_t sample = r / shape.rows_per_sample * shape.channels;
    const Statistics s = statistics_of(shape, x + row);
    for (int64_t c = 0; c < shape.channels; ++c) {
      y[row + c] = (x[row + c] - s.mean) * s.inverse * (1 + scale[sample + c]) + shift[sample + c];
    }
  }
}

void norm_modulate_backward(const RowShape& shape, const double* x, const double* scale, const double* dy,
                            double* dx, double* dscale, double* dshift) {
  const int64_t C = shape.channels;
  std::fill_n(dscale, shape.rows / shape.rows_per_sample * C, 0.0);
  std::fill_n(dshift, shape.rows / shape.rows_per_sample * C, 0.0);
  for (int64_t r = 0; r < shape.rows; ++r) {
    const int64_t row = r * C;
    const int64_t sample = r / shape.rows_per_sample * C;
    const Statistics s = statistics_of(shape, x + row);
    double mean_g = 0;
    double mean_gx = 0;
    for (int64_t c = 0; c < C; ++c) {
      const double xhat = (x[row + c] - s.mean) * s.inverse;
      const double g = dy[row + c] * (1 + scale[sample + c]);
      mean_g += g / static_cast<double>(C);
      mean_gx += g * xhat / static_cast<double>(C);
      // forward: y = xhat * (1 + scale) + shift
      dscale[sample + c] += dy[row + c] * xhat;
      dshift[sample + c] += dy[row + c];
    }
    for (int64_t c = 0; c < C; ++c) {
      const double xhat = (x[row + c] - s.mean) * s.inverse;
      const double g = dy[row + c] * (1 + scale[sample + c]);
      dx[row + c] = s.inverse * (g - mean_g - xhat * mean_gx);
    }
  }
}

void rms_norm_rope(const RowShape& shape, int64_t dim, const double* x, const double* weight,
                   const double* cos, const double* sin, double* y) {
  for (int64_t r = 0; r < shape.rows; ++r) {
    const int64_t row = r * shape.channels;
    const double inverse = inverse_rms(shape, x + row);
    for (int64_t c = 0; c < shape.channels; c += 2) {
      const int64_t angle = r % shape.rows_per_sample * (dim / 2) + c % dim / 2;
      const double a = x[row + c] * inverse * weight[c];
      const double b = x[row + c + 1] * inverse * weight[c + 1];
      y[row + c] = a * cos[angle] - b * sin[angle];
      y[row + c + 1] = a * sin[angle] + b * cos[angle];
    }
  }
}

void rms_norm_rope_backward(const RowShape& shape, int64_t dim, const double* x, const double* weight,
                            const double* cos, const double* sin, const double* dy, double* dx,
                            double* dweight) {
  const int64_t C = shape.channels;
  std::fill_n(dweight, C, 0.0);
  std::vector<double> dz(static_cast<size_t>(C));
  for (int64_t r = 0; r < shape.rows; ++r) {
    const int64_t row = r * C;
    const double inverse = inverse_rms(shape, x + row);
    double mean = 0;
    for (int64_t c = 0; c < C; c += 2) {
      // forward: a rotation, so its transpose turns back
      const int64_t angle = r % shape.rows_per_sample * (dim / 2) + c % dim / 2;
      dz[static_cast<size_t>(c)] = dy[row + c] * cos[angle] + dy[row + c + 1] * sin[angle];
      dz[static_cast<size_t>(c) + 1] = dy[row + c + 1] * cos[angle] - dy[row + c] * sin[angle];
    }
    for (int64_t c = 0; c < C; ++c) {
      dweight[c] += dz[static_cast<size_t>(c)] * x[row + c] * inverse;
      mean += weight[c] * dz[static_cast<size_t>(c)] * x[row + c] / static_cast<double>(C);
    }
    for (int64_t c = 0; c < C; ++c) {
      // forward: z = x * r * weight, r = (mean(x^2) + eps)^(-1/2), so dr/dx_c = -r^3 x_c / C
      dx[row + c] =
          inverse * (weight[c] * dz[static_cast<size_t>(c)] - x[row + c] * inverse * inverse * mean);
    }
  }
}

}  // namespace moga::ref
