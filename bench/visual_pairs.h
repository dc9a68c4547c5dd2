// How much attention there was to do.
#pragma once

#include <vector>

#include "attention/visual_attention.h"
#include "model/wan_dit.h"

namespace moga::bench {

// Pairs of tokens that met in visual attention, averaged over the blocks whose routing this is.
inline double visual_pairs(const DitConfig& config, const StaticPlan& plan,
                           const std::vector<Routing>& routing) {
  if (config.attention.kind == AttentionKind::kFull) {
    return plan.full.pairs();
  }
  double sum = 0;
  for (const Routing& one : routing) {
    const torch::Tensor ids = plan.sequence ? plan.sequence->gather_ids(one.group_ids_L) : one.group_ids_L;
    sum += groups_from_ids(ids, config.attention.groups).pairs();
  }
  return plan.windows.pairs() + plan.frames.pairs() + sum / static_cast<double>(routing.size());
}

}  // namespace moga::bench
