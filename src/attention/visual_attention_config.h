// Settings of the visual attention. Plain numbers, no tensors.
#pragma once

#include <cstdint>

#include "attention/static_groups.h"
#include "base/config.h"

namespace moga {

enum class AttentionKind {
  kMoga,     // dynamic groups + windows + frames: the paper's
  kFull,     // plain full attention: the original Wan models
  kStatic,   // windows + frames only (ablation)
  kDynamic,  // routed groups only (ablation)
};
template <>
struct EnumNames<AttentionKind> {
  static constexpr std::array<std::pair<AttentionKind, const char*>, 4> kNames = {
      {{AttentionKind::kMoga, "moga"},
       {AttentionKind::kFull, "full"},
       {AttentionKind::kStatic, "static"},
       {AttentionKind::kDynamic, "dynamic"}}};
};

struct MogaConfig {
  AttentionKind kind = AttentionKind::kMoga;
  int64_t groups = 5;  // M
  WindowConfig windows;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("kind", s.kind, "Visual attention: moga, full, static (windows and frames) or dynamic (routed only)");
    v("groups", s.groups, "M, the number of routed groups a layer");
    v("windows", s.windows, "Window groups");
  }
};

}  // namespace moga
