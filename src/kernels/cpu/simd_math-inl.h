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

// 2^x for x up to 127 (NaN stays NaN, below -127 it is 0), relative error 8e-8 + rounding.
HWY_INLINE V exp2_in_range(V x) {
  const F d;
#if HWY_TARGET <= HWY_AVX3
  // Two instructions of AVX-512 do what takes five elsewhere: x less its nearest whole number (0 of an
  // infinity), and the product with a power of two.
  const V f{_mm512_reduce_ps(x.raw, 0x08)};
  const V whole = hn::Sub(x, f);
#else
  const hn::RebindToSigned<F> di;
  // Adding 1.5 * 2^23 leaves the nearest whole number in the low bits of the sum; 127 more make it the biased
  // exponent of 2^that. The operands' order lets Max pass a NaN on.
  const V magic = hn::Set(d, 12582912.0F + 127.0F);
  x = hn::Max(hn::Set(d, -127.0F), x);
  const V t = hn::Add(x, magic);
  const V power = hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(di, t)));
  const V f = hn::Sub(x, hn::Sub(t, magic));
#endif
  // Minimax polynomial of 2^f over [-1/2, 1/2] (Remez exchange on the relative error).
  V p = hn::Set(d, 0.0013276472167834048F);
  p = hn::MulAdd(p, f, hn::Set(d, 0.00967554133102361F));
  p = hn::MulAdd(p, f, hn::Set(d, 0.05550713272875276F));
  p = hn::MulAdd(p, f, hn::Set(d, 0.2402211972396913F));
  p = hn::MulAdd(p, f, hn::Set(d, 0.6931469670652652F));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0000000716546418F));
#if HWY_TARGET <= HWY_AVX3
  return V{_mm512_scalef_ps(p.raw, whole.raw)};
#else
  return hn::Mul(p, power);
#endif
}

// Where row m of a matrix lies: one after another, or anywhere.
struct EvenRows {
  const float* first;
  size_t step;
  HWY_INLINE const float* operator[](int m) const { return first + static_cast<size_t>(m) * step; }
};
using AnyRows = const float* const*;

// One matrix tile in registers: acc[m][v] = init(m, v) + sum over k of a[m][k * kStepA] * b[k * b_k + v],
// handed to done(m, v, acc). b and v count vectors of lanes; a is broadcast.
template <int kM, int kV, size_t kStepA, class RowsOfA, class Init, class Done>
HWY_INLINE void multiply_tile(const RowsOfA& a, const float* HWY_RESTRICT b, size_t b_k, size_t depth,
                              const Init& init, const Done& done) {
  const F d;
  const float* HWY_RESTRICT row_of_a[kM];
#pragma GCC unroll 16
  for (int m = 0; m < kM; ++m) {
    row_of_a[m] = a[m];
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

// to[j * to_step + i] = from[i * from_step + j] for i < 4, j < 4.
HWY_INLINE void transpose_4x4(const float* HWY_RESTRICT from, size_t from_step, float* HWY_RESTRICT to,
                              size_t to_step) {
  const hn::FixedTag<float, 4> d;
  const hn::FixedTag<double, 2> dd;
  const auto a = hn::LoadU(d, from);
  const auto b = hn::LoadU(d, from + from_step);
  const auto c = hn::LoadU(d, from + 2 * from_step);
  const auto e = hn::LoadU(d, from + 3 * from_step);
  const auto ab_low = hn::BitCast(dd, hn::InterleaveLower(d, a, b));   // a0 b0 a1 b1
  const auto ab_high = hn::BitCast(dd, hn::InterleaveUpper(d, a, b));  // a2 b2 a3 b3
  const auto ce_low = hn::BitCast(dd, hn::InterleaveLower(d, c, e));
  const auto ce_high = hn::BitCast(dd, hn::InterleaveUpper(d, c, e));
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(dd, ab_low, ce_low)), d, to);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(dd, ab_low, ce_low)), d, to + to_step);
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(dd, ab_high, ce_high)), d, to + 2 * to_step);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(dd, ab_high, ce_high)), d, to + 3 * to_step);
}

}  // namespace moga::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
