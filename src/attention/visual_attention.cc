#include "attention/visual_attention.h"

#include <functional>

#include "base/error.h"

namespace moga {

StaticPlan plan_static_groups(const FilmLayout& layout, const MogaConfig& config, int64_t batch,
                              torch::Device device) {
  MOGA_CHECK(batch > 0, "static groups: expected a positive batch, found {}", batch);
  return plan_static_groups(std::vector<FilmLayout>(static_cast<size_t>(batch), layout), config, device);
}

StaticPlan plan_static_groups(const std::vector<FilmLayout>& layouts, const MogaConfig& config,
                              torch::Device device) {
  MOGA_CHECK(!layouts.empty(), "static groups: no films");
  const int64_t tokens = layouts.front().tokens();
  const auto batched = [&](const std::function<GroupIndex(const FilmLayout&)>& make) {
    std::vector<GroupIndex> parts;
    for (const FilmLayout& layout : layouts) {
      MOGA_CHECK(layout.frames == layouts.front().frames && layout.rows == layouts.front().rows &&
                     layout.cols == layouts.front().cols,
                 "static groups: the films of a batch must have one size");
      parts.push_back(make(layout));
    }
    return to_groups(concat_groups(parts, tokens, tokens), device);
  };
  StaticPlan plan;
  plan.batch = static_cast<int64_t>(layouts.size());
  // Only what this kind of attention uses: a plan of full attention needs no window to fit, and the other way
  // round.
  switch (config.kind) {
    case AttentionKind::kFull:
      plan.full = batched([](const FilmLayout& layout) { return full_groups(layout.tokens()); });
      break;
    case AttentionKind::kMoga:
    case AttentionKind::kStatic:
      plan.windows = batched([&](const FilmLayout& layout) { return window_groups(layout, config.windows); });
      plan.frames = batched([](const FilmLayout& layout) { return frame_groups(layout); });
      break;
    case AttentionKind::kDynamic:
      for (const FilmLayout& layout : layouts) {
        layout.check();
      }
      break;
  }
  return plan;
}

torch::Tensor visual_attention(const torch::Tensor& q_LND, const torch::Tensor& k_LND,
                               const torch::Tensor& v_LND, const StaticPlan& plan, const Routing& routing,
                               const MogaConfig& config) {
  const auto attend = [&](const Groups& groups, const char* name, const torch::Tensor& row_scale_L = {}) {
    MOGA_CHECK(groups.q_index.defined(),
               "visual attention '{}': the plan holds no {} groups, so it was made for "
               "another kind of attention",
               enum_name(config.kind), name);
    return grouped_attention(q_LND, k_LND, v_LND, groups, row_scale_L).out_LND;
  };
  const auto routed = [&](double share) {
    MOGA_CHECK(routing.group_ids_L.defined() && routing.top_prob_L.defined(),
               "visual attention '{}' needs a routing", enum_name(config.kind));
    const Groups groups = groups_from_ids(routing.group_ids_L, config.groups, plan.batch);
    // The mean's factor goes into the row scale, which is L numbers instead of L * N * D.
    return attend(groups, "routed", share == 1.0 ? routing.top_prob_L : routing.top_prob_L * share);
  };
  switch (config.kind) {
    case AttentionKind::kFull:
      return attend(plan.full, "full");
    case AttentionKind::kDynamic:
      return routed(1.0);
    case AttentionKind::kStatic:
      return torch::add(attend(plan.windows, "window"), attend(plan.frames, "frame")).mul_(1.0 / 2);
    case AttentionKind::kMoga:
      return torch::add(attend(plan.windows, "window"), attend(plan.frames, "frame"))
          .mul_(1.0 / 3)
          .add_(routed(1.0 / 3));
  }
  fail("visual attention: unknown kind");
}

}  // namespace moga
