// Vector helpers of the CPU kernels, compiled once a target (see Highway's foreach_target).
#if defined(MOGA_KERNELS_CPU_SIMD_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MOGA_KERNELS_CPU_SIMD_MATH_INL_H_
#undef MOGA_KERNELS_CPU_SIMD_MATH_INL_H_
#else
#define MOGA_KERNELS_CPU_SIMD_MATH_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/rows.h"

HWY_BEFORE_NAMESPACE();
namespace moga::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F = HWY_FULL(float);
using V = hn::Vec<F>;
constexpr size_t kLanes = hn::MaxLanes(F());

// The polynomial in f with these coefficients, that of the highest power first.
template <size_t kCount>
HWY_INLINE V polynomial(V f, const float (&coefficients)[kCount]) {
  const F d;
  V sum = hn::Set(d, coefficients[0]);
#pragma GCC unroll 8
  for (size_t i = 1; i < kCount; ++i) {
    sum = hn::MulAdd(sum, f, hn::Set(d, coefficients[i]));
  }
  return sum;
}

// 2^x (NaN stays NaN, below -127 it is 0, from 128 on infinity), relative error 8e-8 + rounding: a minimax
// polynomial of degree five for the fraction (Remez exchange on the relative error), the exponent for the
// whole part.
HWY_INLINE V exp2_of(V x) {
#if HWY_TARGET <= HWY_AVX3
  // Two instructions of AVX-512 do what takes six elsewhere: x less the whole number below it (0 of an
  // infinity), and the product with two to that whole number.
  const V f{_mm512_reduce_ps(x.raw, 0x09)};
  constexpr float kBelowOne[] = {0.0018775766759798315F, 0.008989340088493468F, 0.0558263180550749F,
                                 0.24015361704373522F,   0.6931530732002434F,   0.9999999250635269F};
  return V{_mm512_scalef_ps(polynomial(f, kBelowOne).raw, x.raw)};
#else
  const F d;
  const hn::RebindToSigned<F> di;
  // Adding 1.5 * 2^23 leaves the nearest whole number in the low bits of the sum; 127 more make it the biased
  // exponent of 2^that. The operands' order lets Max and Min pass a NaN on.
  const V magic = hn::Set(d, 12582912.0F + 127.0F);
  x = hn::Min(hn::Set(d, 128.0F), hn::Max(hn::Set(d, -127.0F), x));
  const V t = hn::Add(x, magic);
  const V power = hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(di, t)));
  const V f = hn::Sub(x, hn::Sub(t, magic));
  constexpr float kAroundZero[] = {0.0013276472167834048F, 0.00967554133102361F, 0.05550713272875276F,
                                   0.2402211972396913F,    0.6931469670652652F,  1.0000000716546418F};
  return hn::Mul(polynomial(f, kAroundZero), power);
#endif
}

// The rows of a matrix, `step` floats apart.
struct Matrix {
  const float* first;
  size_t step;
};

// One matrix tile in registers: acc[m][v] = init(m, v) + sum over k of a[m][k * kStepA] * b[k * b_k + v],
// handed to done(m, v, acc). b and v count vectors of lanes; a is broadcast.
template <int kM, int kV, size_t kStepA, class Init, class Done>
HWY_INLINE void multiply_tile(const Matrix& a, const float* HWY_RESTRICT b, size_t b_k, size_t depth,
                              const Init& init, const Done& done) {
  const F d;
  const float* HWY_RESTRICT row_of_a[kM];
#pragma GCC unroll 16
  for (int m = 0; m < kM; ++m) {
    row_of_a[m] = a.first + static_cast<size_t>(m) * a.step;
  }
  V acc[kM][kV];
#pragma GCC unroll 16
  for (int m = 0; m < kM; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < kV; ++v) {
      acc[m][v] = init(m, v);
    }
  }
#pragma GCC unroll 2
  for (size_t k = 0; k < depth; ++k) {
    V row[kV];
#pragma GCC unroll 4
    for (int v = 0; v < kV; ++v) {
      row[v] = hn::LoadU(d, b + k * b_k + static_cast<size_t>(v) * kLanes);
    }
#pragma GCC unroll 16
    for (int m = 0; m < kM; ++m) {
      const V left = hn::Set(d, row_of_a[m][k * kStepA]);
#pragma GCC unroll 4
      for (int v = 0; v < kV; ++v) {
        acc[m][v] = hn::MulAdd(left, row[v], acc[m][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < kM; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < kV; ++v) {
      done(m, v, acc[m][v]);
    }
  }
}

// Register tiles: rows x vectors of accumulators, beside kTileVectors loaded vectors and a broadcast.
#if HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM_A64
constexpr int kTileRows = 8;  // 24 of 32 registers
#else
constexpr int kTileRows = 4;  // 12 of 16
#endif
constexpr int kTileVectors = 3;
constexpr size_t kPanel = kTileVectors * kLanes;  // queries of a full panel

// `count` values of any storage to float32.
HWY_INLINE void load_row(const void* from, Storage storage, size_t count, float* HWY_RESTRICT to) {
  const F d;
  size_t i = 0;
  if (storage == Storage::kFloat32) {
    const auto* x = static_cast<const float*>(from);
    for (; i + kLanes <= count; i += kLanes) {
      hn::StoreU(hn::LoadU(d, x + i), d, to + i);
    }
    for (; i < count; ++i) {
      to[i] = x[i];
    }
    return;
  }
  const auto* x = static_cast<const uint16_t*>(from);
  const hn::Rebind<uint16_t, F> d16;
  const hn::RebindToUnsigned<F> d32;
  if (storage == Storage::kBfloat16) {
    for (; i + kLanes <= count; i += kLanes) {
      hn::StoreU(hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, x + i)))), d, to + i);
    }
    for (; i < count; ++i) {
      const uint32_t bits = static_cast<uint32_t>(x[i]) << 16;
      std::memcpy(to + i, &bits, 4);
    }
    return;
  }
  const hn::Rebind<hwy::float16_t, F> dh;
  for (; i < count; i += kLanes) {
    HWY_ALIGN uint16_t half[kLanes] = {};
    HWY_ALIGN float wide[kLanes];
    const size_t rest = count - i < kLanes ? count - i : kLanes;
    std::memcpy(half, x + i, rest * 2);
    hn::Store(hn::PromoteTo(d, hn::BitCast(dh, hn::Load(d16, half))), d, wide);
    std::memcpy(to + i, wide, rest * 4);
  }
}

// float32 to any storage, rounded to nearest even; with kAdd to what is there.
HWY_INLINE void store_row(const float* HWY_RESTRICT from, Storage storage, size_t count, void* to) {
  const F d;
  size_t i = 0;
  if (storage == Storage::kFloat32) {
    std::memcpy(to, from, count * 4);
    return;
  }
  auto* x = static_cast<uint16_t*>(to);
  if (storage == Storage::kBfloat16) {
    for (; i < count; ++i) {
      uint32_t bits;
      std::memcpy(&bits, from + i, 4);
      const bool nan = (bits & 0x7fffffffU) > 0x7f800000U;
      x[i] = static_cast<uint16_t>(nan ? (bits >> 16) | 0x40U : (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
    }
    return;
  }
  const hn::Rebind<hwy::float16_t, F> dh;
  const hn::Rebind<uint16_t, F> d16;
  for (; i < count; i += kLanes) {
    HWY_ALIGN uint16_t half[kLanes];
    HWY_ALIGN float wide[kLanes] = {};
    const size_t rest = count - i < kLanes ? count - i : kLanes;
    std::memcpy(wide, from + i, rest * 4);
    hn::Store(hn::BitCast(d16, hn::DemoteTo(dh, hn::Load(d, wide))), d16, half);
    std::memcpy(x + i, half, rest * 2);
  }
}

// Channels [at, at + 4) of rows 0, 4, 8 ..., as many as a vector has blocks of four lanes.
template <class D>
HWY_INLINE hn::Vec<D> load_blocks(D d, const float* const* rows, size_t at) {
  if constexpr (hn::MaxLanes(D()) == 4) {
    return hn::LoadU(d, rows[0] + at);
  } else {
    const hn::Half<D> half;
    return hn::Combine(d, load_blocks(half, rows + hn::MaxLanes(half), at), load_blocks(half, rows, at));
  }
}
template <class D>
HWY_INLINE void store_blocks(D d, hn::Vec<D> x, float* const* rows, size_t at) {
  if constexpr (hn::MaxLanes(D()) == 4) {
    hn::StoreU(x, d, rows[0] + at);
  } else {
    const hn::Half<D> half;
    store_blocks(half, hn::LowerHalf(half, x), rows, at);
    store_blocks(half, hn::UpperHalf(half, x), rows + hn::MaxLanes(half), at);
  }
}

// Turns the 4 x 4 numbers of each block.
HWY_INLINE void transpose_blocks(V& a, V& b, V& c, V& e) {
  const F d;
  const hn::Repartition<double, F> dd;
  const auto ab_low = hn::BitCast(dd, hn::InterleaveLower(d, a, b));   // a0 b0 a1 b1
  const auto ab_high = hn::BitCast(dd, hn::InterleaveUpper(d, a, b));  // a2 b2 a3 b3
  const auto ce_low = hn::BitCast(dd, hn::InterleaveLower(d, c, e));
  const auto ce_high = hn::BitCast(dd, hn::InterleaveUpper(d, c, e));
  a = hn::BitCast(d, hn::InterleaveLower(dd, ab_low, ce_low));
  b = hn::BitCast(d, hn::InterleaveUpper(dd, ab_low, ce_low));
  c = hn::BitCast(d, hn::InterleaveLower(dd, ab_high, ce_high));
  e = hn::BitCast(d, hn::InterleaveUpper(dd, ab_high, ce_high));
}

// to[i * width + r] = factor * rows[r][i] for r < kLanes, i < dim.
HWY_INLINE void turn_rows(const float* const* rows, float factor, size_t dim, float* HWY_RESTRICT to,
                          size_t width) {
  const F d;
  const V f = hn::Set(d, factor);
  for (size_t i = 0; i < dim; i += 4) {
    V a = hn::Mul(load_blocks(d, rows, i), f);
    V b = hn::Mul(load_blocks(d, rows + 1, i), f);
    V c = hn::Mul(load_blocks(d, rows + 2, i), f);
    V e = hn::Mul(load_blocks(d, rows + 3, i), f);
    transpose_blocks(a, b, c, e);
    hn::StoreU(a, d, to + i * width);
    hn::StoreU(b, d, to + (i + 1) * width);
    hn::StoreU(c, d, to + (i + 2) * width);
    hn::StoreU(e, d, to + (i + 3) * width);
  }
}

// The way back: rows[r * dim + i] = factor[r] * from[i * width + r].
HWY_INLINE void turn_back(const float* HWY_RESTRICT from, size_t width, V factor, size_t dim,
                          float* HWY_RESTRICT rows) {
  const F d;
  float* to[kLanes];
  for (size_t r = 0; r < kLanes; ++r) {
    to[r] = rows + r * dim;
  }
  for (size_t i = 0; i < dim; i += 4) {
    V a = hn::Mul(hn::LoadU(d, from + i * width), factor);
    V b = hn::Mul(hn::LoadU(d, from + (i + 1) * width), factor);
    V c = hn::Mul(hn::LoadU(d, from + (i + 2) * width), factor);
    V e = hn::Mul(hn::LoadU(d, from + (i + 3) * width), factor);
    transpose_blocks(a, b, c, e);
    store_blocks(d, a, to, i);
    store_blocks(d, b, to + 1, i);
    store_blocks(d, c, to + 2, i);
    store_blocks(d, e, to + 3, i);
  }
}

}  // namespace moga::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
