// The attention kernels for every instruction set that the compiler can make, and the choice among them.
#include "kernels/cpu/simd_targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention_simd.cc"
#include <hwy/foreach_target.h>  // first
#include <hwy/highway.h>

#include "kernels/cpu/backward-inl.h"
#include "kernels/cpu/forward-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moga::cpu::HWY_NAMESPACE {

double fma_burst(int64_t rounds) {
  const F d;
  constexpr int kChains = kTileRows * kTileVectors;  // as many as the kernels keep in flight
  V sum[kChains];
#pragma GCC unroll 32
  for (int i = 0; i < kChains; ++i) {
    sum[i] = hn::Set(d, static_cast<float>(i));
  }
  const V factor = hn::Set(d, 0.999F);
  const V term = hn::Set(d, 1e-3F);
  for (int64_t n = 0; n < rounds; ++n) {
#pragma GCC unroll 32
    for (int i = 0; i < kChains; ++i) {
      sum[i] = hn::MulAdd(sum[i], factor, term);
    }
  }
  V all = hn::Zero(d);
#pragma GCC unroll 32
  for (int i = 0; i < kChains; ++i) {
    all = hn::Add(all, sum[i]);
  }
  // A use that the compiler cannot foresee keeps the loop alive.
  const double nothing = hn::GetLane(all) == -1.0F ? 1.0 : 0.0;
  return 2.0 * kChains * static_cast<double>(kLanes) * static_cast<double>(rounds) + nothing;
}

AttentionFunctions functions() {
  return {forward_item, backward_item, dot_row, fma_burst, [] { return hwy::TargetName(HWY_TARGET); }};
}

}  // namespace moga::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "base/error.h"

namespace moga::cpu {

HWY_EXPORT(functions);

AttentionFunctions attention_functions() {
  return HWY_DYNAMIC_DISPATCH(functions)();
}

std::string attention_target() {
  return attention_functions().target();
}

std::vector<std::string> attention_targets() {
  std::vector<std::string> names;
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    names.emplace_back(hwy::TargetName(target));
  }
  return names;
}

void use_attention_target(const std::string& name) {
  hwy::SetSupportedTargetsForTest(0);
  for (const int64_t target : name.empty() ? std::vector<int64_t>{} : hwy::SupportedAndGeneratedTargets()) {
    if (name == hwy::TargetName(target)) {
      hwy::SetSupportedTargetsForTest(target);
      hwy::GetChosenTarget().Update(hwy::SupportedTargets());
      return;
    }
  }
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  MOGA_CHECK(name.empty(), "attention kernels: this machine cannot run target '{}'", name);
}

}  // namespace moga::cpu
#endif
