// GELU for every instruction set (simd_targets.h).
#include "kernels/cpu/simd_targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/gelu.cc"
#include <hwy/foreach_target.h>  // first
#include <hwy/highway.h>

#include <algorithm>

#include "kernels/cpu/gelu.h"
#include "kernels/cpu/simd_math-inl.h"

#ifndef MOGA_GELU_FUNCTIONS
#define MOGA_GELU_FUNCTIONS
namespace moga::cpu {

// The entry points of the target in use.
struct GeluFunctions {
  void (*forward)(int64_t count, const float* x, float* y);
  void (*backward)(int64_t count, const float* x, const float* dy, float* dx);
};

}  // namespace moga::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace moga::cpu::HWY_NAMESPACE {

constexpr float kSlope = 1.5957691216057308F;  // 2 sqrt(2 / pi)
constexpr float kCube = 0.044715F;
constexpr float kBase = 1.4426950408889634F;  // log2(e)

// (1 + tanh(u)) / 2 = 1 / (1 + e), e = exp(-2 u).
struct Gate {
  V x;  // where nothing overflows: beyond, the gate is 0 or 1
  V squared;
  V e;
  V open;
};

HWY_INLINE Gate gate_of(V any) {
  const F d;
  const V x = hn::Min(hn::Max(any, hn::Set(d, -16.0F)), hn::Set(d, 16.0F));
  const V squared = hn::Mul(x, x);
  const V scaled = hn::Mul(x, hn::Set(d, -kSlope * kBase));
  const V power = hn::MulAdd(hn::Mul(scaled, hn::Set(d, kCube)), squared, scaled);
  const V e = exp2_of(hn::Min(power, hn::Set(d, 126.0F)));
  return {x, squared, e, hn::Div(hn::Set(d, 1.0F), hn::Add(hn::Set(d, 1.0F), e))};
}

HWY_INLINE V gelu(V x) {
  return hn::Mul(x, gate_of(x).open);
}

HWY_INLINE V gelu_slope(V x) {
  const F d;
  const Gate gate = gate_of(x);
  const V closed = hn::Mul(gate.e, gate.open);
  const V inner = hn::MulAdd(gate.squared, hn::Set(d, 3 * kSlope * kCube), hn::Set(d, kSlope));
  return hn::MulAdd(hn::Mul(hn::Mul(gate.x, inner), closed), gate.open, gate.open);
}

// The last few values go through a vector of their own.
template <class Body>
HWY_INLINE void over_values(int64_t count, const Body& body) {
  const auto lanes = static_cast<int64_t>(kLanes);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    body(i, lanes);
  }
  if (i < count) {
    body(i, count - i);
  }
}

HWY_INLINE V load_some(const float* from, int64_t count) {
  const F d;
  if (count == static_cast<int64_t>(kLanes)) {
    return hn::LoadU(d, from);
  }
  HWY_ALIGN float values[kLanes] = {};
  std::copy_n(from, count, values);
  return hn::Load(d, values);
}

HWY_INLINE void store_some(V value, int64_t count, float* to) {
  const F d;
  if (count == static_cast<int64_t>(kLanes)) {
    hn::StoreU(value, d, to);
    return;
  }
  HWY_ALIGN float values[kLanes];
  hn::Store(value, d, values);
  std::copy_n(values, count, to);
}

void gelu_values(int64_t count, const float* x, float* y) {
  over_values(count, [&](int64_t i, int64_t n) HWY_ATTR { store_some(gelu(load_some(x + i, n)), n, y + i); });
}

void gelu_values_backward(int64_t count, const float* x, const float* dy, float* dx) {
  over_values(count, [&](int64_t i, int64_t n) HWY_ATTR {
    store_some(hn::Mul(load_some(dy + i, n), gelu_slope(load_some(x + i, n))), n, dx + i);
  });
}

GeluFunctions gelu_functions() {
  return {gelu_values, gelu_values_backward};
}

}  // namespace moga::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moga::cpu {

HWY_EXPORT(gelu_functions);

namespace {

// A multiple of every vector's length, so that the pieces' ends are where vectors end.
constexpr int64_t kPiece = 1 << 14;

template <class Body>
void over_pieces(int64_t count, const Body& body) {
#pragma omp parallel for
  for (int64_t begin = 0; begin < count; begin += kPiece) {
    body(begin, std::min(kPiece, count - begin));
  }
}

}  // namespace

void gelu_tanh(int64_t count, const float* x, float* y) {
  const auto forward = HWY_DYNAMIC_DISPATCH(gelu_functions)().forward;
  over_pieces(count, [&](int64_t begin, int64_t length) { forward(length, x + begin, y + begin); });
}

void gelu_tanh_backward(int64_t count, const float* x, const float* dy, float* dx) {
  const auto backward = HWY_DYNAMIC_DISPATCH(gelu_functions)().backward;
  over_pieces(count,
              [&](int64_t begin, int64_t length) { backward(length, x + begin, dy + begin, dx + begin); });
}

}  // namespace moga::cpu
#endif
