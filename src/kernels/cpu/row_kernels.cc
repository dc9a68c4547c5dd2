// The row kernels for every instruction set (simd_targets.h).
#include "kernels/cpu/simd_targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/row_kernels.cc"
#include <hwy/foreach_target.h>  // first
#include <hwy/highway.h>

#include <cmath>

#include "kernels/cpu/row_kernels.h"

#ifndef MOGA_ROW_FUNCTIONS
#define MOGA_ROW_FUNCTIONS
namespace moga::cpu {

// The entry points of the target in use.
struct RowFunctions {
  void (*norm)(const RowShape&, const float* x, const float* scale, const float* shift, float* y);
  void (*norm_backward)(const RowShape&, const float* x, const float* scale, const float* dy, float* dx,
                        float* dscale, float* dshift);
  void (*rope)(const RowShape&, int64_t dim, const float* x, const float* weight, const float* turn,
               float* y);
  void (*rope_backward)(const RowShape&, int64_t dim, const float* x, const float* weight, const float* turn,
                        const float* dy, float* dz, float* dx, float* dweight);
  void (*products)(int64_t channels, int64_t outputs, const float* x, const float* w, const float* bias,
                   float* y);
};

}  // namespace moga::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace moga::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F4 = hn::CappedTag<float, 4>;  // for the channels that do not fill a vector

// body(d, c) for vectors of channels c; the last few in vectors of four.
template <class Body>
HWY_INLINE void over_channels(int64_t channels, const Body& body) {
  const HWY_FULL(float) d;
  const auto lanes = static_cast<int64_t>(hn::MaxLanes(d));
  int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) {
    body(d, c);
  }
  for (; c < channels; c += 4) {
    body(F4(), c);
  }
}

// Sum over the channels of value(d, c), in four chains.
template <class Value>
HWY_INLINE float sum_channels(int64_t channels, const Value& value) {
  const HWY_FULL(float) d;
  const F4 d4;
  const auto lanes = static_cast<int64_t>(hn::MaxLanes(d));
  auto s0 = hn::Zero(d), s1 = hn::Zero(d), s2 = hn::Zero(d), s3 = hn::Zero(d);
  auto tail = hn::Zero(d4);
  int64_t c = 0;
  for (; c + 4 * lanes <= channels; c += 4 * lanes) {
    s0 = hn::Add(s0, value(d, c));
    s1 = hn::Add(s1, value(d, c + lanes));
    s2 = hn::Add(s2, value(d, c + 2 * lanes));
    s3 = hn::Add(s3, value(d, c + 3 * lanes));
  }
  for (; c + lanes <= channels; c += lanes) {
    s0 = hn::Add(s0, value(d, c));
  }
  for (; c < channels; c += 4) {
    tail = hn::Add(tail, value(d4, c));
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)))) +
         hn::GetLane(hn::SumOfLanes(d4, tail));
}

struct Statistics {
  float mean;
  float inverse;
};

HWY_INLINE Statistics row_statistics(const RowShape& shape, const float* HWY_RESTRICT x) {
  const auto channels = static_cast<float>(shape.channels);
  const float mean =
      sum_channels(shape.channels, [&](auto d, int64_t c) HWY_ATTR { return hn::LoadU(d, x + c); }) /
      channels;
  const float squares = sum_channels(shape.channels, [&](auto d, int64_t c) HWY_ATTR {
    const auto off = hn::Sub(hn::LoadU(d, x + c), hn::Set(d, mean));
    return hn::Mul(off, off);
  });
  return {mean, 1.0F / std::sqrt(squares / channels + shape.eps)};
}

HWY_INLINE float inverse_rms(const RowShape& shape, const float* HWY_RESTRICT x) {
  const float squares = sum_channels(shape.channels, [&](auto d, int64_t c) HWY_ATTR {
    const auto v = hn::LoadU(d, x + c);
    return hn::Mul(v, v);
  });
  return 1.0F / std::sqrt(squares / static_cast<float>(shape.channels) + shape.eps);
}

void norm_row(const RowShape& shape, const float* x, const float* scale, const float* shift, float* y) {
  const Statistics s = row_statistics(shape, x);
  over_channels(shape.channels, [&](auto d, int64_t c) HWY_ATTR {
    const auto xhat = hn::Mul(hn::Sub(hn::LoadU(d, x + c), hn::Set(d, s.mean)), hn::Set(d, s.inverse));
    // xhat * (1 + scale) + shift
    hn::StoreU(hn::Add(hn::MulAdd(xhat, hn::LoadU(d, scale + c), xhat), hn::LoadU(d, shift + c)), d, y + c);
  });
}

// dx of a row; xhat_dy and dy are added to dscale and dshift of the caller's block of rows.
void norm_row_backward(const RowShape& shape, const float* x, const float* scale, const float* dy, float* dx,
                       float* dscale, float* dshift) {
  const Statistics s = row_statistics(shape, x);
  const auto xhat = [&](auto d, int64_t c) HWY_ATTR {
    return hn::Mul(hn::Sub(hn::LoadU(d, x + c), hn::Set(d, s.mean)), hn::Set(d, s.inverse));
  };
  const auto g = [&](auto d, int64_t c) HWY_ATTR {
    const auto y = hn::LoadU(d, dy + c);
    return hn::MulAdd(y, hn::LoadU(d, scale + c), y);
  };
  const auto channels = static_cast<float>(shape.channels);
  const float mean_g = sum_channels(shape.channels, g) / channels;
  const float mean_gx =
      sum_channels(shape.channels, [&](auto d, int64_t c) HWY_ATTR { return hn::Mul(g(d, c), xhat(d, c)); }) /
      channels;
  over_channels(shape.channels, [&](auto d, int64_t c) HWY_ATTR {
    const auto h = xhat(d, c);
    const auto y = hn::LoadU(d, dy + c);
    hn::StoreU(hn::MulAdd(y, h, hn::LoadU(d, dscale + c)), d, dscale + c);
    hn::StoreU(hn::Add(y, hn::LoadU(d, dshift + c)), d, dshift + c);
    const auto off = hn::Sub(hn::Sub(g(d, c), hn::Set(d, mean_g)), hn::Mul(h, hn::Set(d, mean_gx)));
    hn::StoreU(hn::Mul(off, hn::Set(d, s.inverse)), d, dx + c);
  });
}

// turn: [2][dim] factors of the channel itself and of its neighbour in the pair, or null.
void rope_row(const RowShape& shape, int64_t dim, const float* x, const float* weight, const float* turn,
              float* y) {
  const float inverse = inverse_rms(shape, x);
  const auto normed = [&](auto d, int64_t c) HWY_ATTR {
    return hn::Mul(hn::Mul(hn::LoadU(d, x + c), hn::Set(d, inverse)), hn::LoadU(d, weight + c));
  };
  if (turn == nullptr) {
    over_channels(shape.channels, [&](auto d, int64_t c) HWY_ATTR { hn::StoreU(normed(d, c), d, y + c); });
    return;
  }
  for (int64_t head = 0; head < shape.channels; head += dim) {
    over_channels(dim, [&](auto d, int64_t i) HWY_ATTR {
      const auto z = normed(d, head + i);
      hn::StoreU(
          hn::MulAdd(hn::Shuffle2301(z), hn::LoadU(d, turn + dim + i), hn::Mul(z, hn::LoadU(d, turn + i))), d,
          y + head + i);
    });
  }
}

// dz: room for a row. turn: of the way back.
void rope_row_backward(const RowShape& shape, int64_t dim, const float* x, const float* weight,
                       const float* turn, const float* dy, float* dz, float* dx, float* dweight) {
  const float inverse = inverse_rms(shape, x);
  if (turn == nullptr) {
    over_channels(shape.channels,
                  [&](auto d, int64_t c) HWY_ATTR { hn::StoreU(hn::LoadU(d, dy + c), d, dz + c); });
  } else {
    for (int64_t head = 0; head < shape.channels; head += dim) {
      over_channels(dim, [&](auto d, int64_t i) HWY_ATTR {
        const auto y = hn::LoadU(d, dy + head + i);
        hn::StoreU(
            hn::MulAdd(hn::Shuffle2301(y), hn::LoadU(d, turn + dim + i), hn::Mul(y, hn::LoadU(d, turn + i))),
            d, dz + head + i);
      });
    }
  }
  const float mean = sum_channels(shape.channels,
                                  [&](auto d, int64_t c) HWY_ATTR {
                                    return hn::Mul(hn::Mul(hn::LoadU(d, weight + c), hn::LoadU(d, dz + c)),
                                                   hn::LoadU(d, x + c));
                                  }) /
                     static_cast<float>(shape.channels);
  const float back = inverse * inverse * mean;
  over_channels(shape.channels, [&](auto d, int64_t c) HWY_ATTR {
    const auto xc = hn::LoadU(d, x + c);
    const auto z = hn::LoadU(d, dz + c);
    hn::StoreU(hn::MulAdd(hn::Mul(z, xc), hn::Set(d, inverse), hn::LoadU(d, dweight + c)), d, dweight + c);
    const auto off = hn::Sub(hn::Mul(hn::LoadU(d, weight + c), z), hn::Mul(xc, hn::Set(d, back)));
    hn::StoreU(hn::Mul(off, hn::Set(d, inverse)), d, dx + c);
  });
}

void products_row(int64_t channels, int64_t outputs, const float* x, const float* w, const float* bias,
                  float* y) {
  for (int64_t m = 0; m < outputs; ++m) {
    const float* row = w + m * channels;
    y[m] = bias[m] + sum_channels(channels, [&](auto d, int64_t c) HWY_ATTR {
             return hn::Mul(hn::LoadU(d, x + c), hn::LoadU(d, row + c));
           });
  }
}

RowFunctions row_functions() {
  return {norm_row, norm_row_backward, rope_row, rope_row_backward, products_row};
}

}  // namespace moga::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <algorithm>
#include <vector>

#include "base/error.h"

namespace moga::cpu {

HWY_EXPORT(row_functions);

namespace {

void check_shape(const RowShape& shape, int64_t dim) {
  MOGA_CHECK(shape.channels > 0 && shape.channels % 4 == 0 && shape.rows >= 0 && shape.rows_per_sample > 0 &&
                 shape.rows % shape.rows_per_sample == 0,
             "row kernels: {} rows of {} channels (expected a multiple of 4), {} rows a sample", shape.rows,
             shape.channels, shape.rows_per_sample);
  MOGA_CHECK(dim > 0 && dim % 4 == 0 && shape.channels % dim == 0,
             "row kernels: a head size of {} (expected a multiple of 4) does not divide {} channels", dim,
             shape.channels);
}

// Gradients that add up over rows: a partial sum for each block of rows, added in the order of the blocks.
constexpr int64_t kBlockRows = 256;

// body(first row, last row, partial) for every block of a sample's rows, then sum [width] = the partials of
// each sample added up. sums: [samples, width].
template <class Body>
void sum_over_blocks(const RowShape& shape, int64_t width, float* sums, const Body& body) {
  const int64_t blocks = (shape.rows_per_sample + kBlockRows - 1) / kBlockRows;
  const int64_t samples = shape.rows / shape.rows_per_sample;
  std::vector<float> partial(static_cast<size_t>(samples * blocks * width));
#pragma omp parallel for
  for (int64_t i = 0; i < samples * blocks; ++i) {
    const int64_t begin = i % blocks * kBlockRows;
    const int64_t first = i / blocks * shape.rows_per_sample;
    body(first + begin, first + std::min(begin + kBlockRows, shape.rows_per_sample),
         partial.data() + i * width);
  }
  std::fill_n(sums, samples * width, 0.0F);
#pragma omp parallel for
  for (int64_t c = 0; c < width; ++c) {
    for (int64_t i = 0; i < samples * blocks; ++i) {
      sums[i / blocks * width + c] += partial[static_cast<size_t>(i * width + c)];
    }
  }
}

// The factors of rope_row for one row; sign -1 turns back.
void fill_turn(const float* cos, const float* sin, int64_t dim, float sign, float* turn) {
  for (int64_t i = 0; i < dim; ++i) {
    turn[i] = cos[i / 2];
    turn[dim + i] = (i % 2 == 0 ? -sign : sign) * sin[i / 2];
  }
}

}  // namespace

void norm_modulate(const RowShape& shape, const float* x, const float* scale, const float* shift,
                   int64_t sample_stride, float* y) {
  check_shape(shape, shape.channels);
  const auto norm = HWY_DYNAMIC_DISPATCH(row_functions)().norm;
#pragma omp parallel for
  for (int64_t r = 0; r < shape.rows; ++r) {
    const int64_t sample = r / shape.rows_per_sample * sample_stride;
    norm(shape, x + r * shape.channels, scale + sample, shift + sample, y + r * shape.channels);
  }
}

void norm_modulate_backward(const RowShape& shape, const float* x, const float* scale, int64_t sample_stride,
                            const float* dy, float* dx, float* dscale, float* dshift) {
  check_shape(shape, shape.channels);
  const auto norm_backward = HWY_DYNAMIC_DISPATCH(row_functions)().norm_backward;
  const int64_t C = shape.channels;
  std::vector<float> sums(static_cast<size_t>(shape.rows / shape.rows_per_sample * 2 * C));
  sum_over_blocks(shape, 2 * C, sums.data(), [&](int64_t begin, int64_t end, float* partial) {
    for (int64_t r = begin; r < end; ++r) {
      norm_backward(shape, x + r * C, scale + r / shape.rows_per_sample * sample_stride, dy + r * C,
                    dx + r * C, partial, partial + C);
    }
  });
  for (int64_t s = 0; s < shape.rows / shape.rows_per_sample; ++s) {
    std::copy_n(sums.data() + s * 2 * C, C, dscale + s * C);
    std::copy_n(sums.data() + s * 2 * C + C, C, dshift + s * C);
  }
}

void rms_norm_rope(const RowShape& shape, int64_t dim, const float* x, const float* weight, const float* cos,
                   const float* sin, float* y) {
  check_shape(shape, dim);
  const auto rope = HWY_DYNAMIC_DISPATCH(row_functions)().rope;
#pragma omp parallel
  {
    std::vector<float> turn(static_cast<size_t>(2 * dim));
#pragma omp for
    for (int64_t r = 0; r < shape.rows; ++r) {
      if (cos != nullptr) {
        const int64_t at = r % shape.rows_per_sample * (dim / 2);
        fill_turn(cos + at, sin + at, dim, 1.0F, turn.data());
      }
      rope(shape, dim, x + r * shape.channels, weight, cos != nullptr ? turn.data() : nullptr,
           y + r * shape.channels);
    }
  }
}

void rms_norm_rope_backward(const RowShape& shape, int64_t dim, const float* x, const float* weight,
                            const float* cos, const float* sin, const float* dy, float* dx, float* dweight) {
  check_shape(shape, dim);
  const auto rope_backward = HWY_DYNAMIC_DISPATCH(row_functions)().rope_backward;
  const int64_t C = shape.channels;
  const int64_t samples = shape.rows / shape.rows_per_sample;
  std::vector<float> sums(static_cast<size_t>(samples * C));
  sum_over_blocks(shape, C, sums.data(), [&](int64_t begin, int64_t end, float* partial) {
    std::vector<float> turn(static_cast<size_t>(2 * dim + C));
    for (int64_t r = begin; r < end; ++r) {
      if (cos != nullptr) {
        const int64_t at = r % shape.rows_per_sample * (dim / 2);
        fill_turn(cos + at, sin + at, dim, -1.0F, turn.data());
      }
      rope_backward(shape, dim, x + r * C, weight, cos != nullptr ? turn.data() : nullptr, dy + r * C,
                    turn.data() + 2 * dim, dx + r * C, partial);
    }
  });
  std::fill_n(dweight, C, 0.0F);
  for (int64_t s = 0; s < samples; ++s) {
    for (int64_t c = 0; c < C; ++c) {
      dweight[c] += sums[static_cast<size_t>(s * C + c)];
    }
  }
}

void row_products(int64_t rows, int64_t channels, int64_t outputs, const float* x, const float* w,
                  const float* bias, float* y) {
  check_shape({rows, channels, 1}, channels);
  const auto products = HWY_DYNAMIC_DISPATCH(row_functions)().products;
#pragma omp parallel for
  for (int64_t r = 0; r < rows; ++r) {
    products(channels, outputs, x + r * channels, w, bias, y + r * outputs);
  }
}

}  // namespace moga::cpu
#endif
