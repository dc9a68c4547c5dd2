#include "attention/visual_attention.h"

#include <functional>

#include "attention/torch_compat.h"
#include "base/error.h"

namespace moga {

namespace {

// The static groups that a kind of attention uses, and no others: a plan of full attention needs no window to
// fit, and the other way round.
struct StaticKind {
  Groups StaticPlan::*groups;
  GroupSizes StaticSizes::*sizes;
  std::function<GroupIndex(const FilmLayout&)> make;
};

std::vector<StaticKind> static_kinds(const MogaConfig& config) {
  switch (config.kind) {
    case AttentionKind::kFull:
      return {{&StaticPlan::full, &StaticSizes::full,
               [](const FilmLayout& layout) { return full_groups(layout.tokens()); }}};
    case AttentionKind::kMoga:
    case AttentionKind::kStatic:
      return {
          {&StaticPlan::windows, &StaticSizes::windows,
           [windows = config.windows](const FilmLayout& layout) { return window_groups(layout, windows); }},
          {&StaticPlan::frames, &StaticSizes::frames, frame_groups}};
    case AttentionKind::kDynamic:
      return {};
  }
  fail("visual attention: unknown kind");
}

}  // namespace

StaticSizes static_group_sizes(const std::vector<FilmLayout>& layouts, const MogaConfig& config) {
  StaticSizes sizes;
  for (const StaticKind& kind : static_kinds(config)) {
    for (const FilmLayout& layout : layouts) {
      (sizes.*kind.sizes).cover(kind.make(layout));
    }
  }
  return sizes;
}

StaticPlan plan_static_groups(const FilmLayout& layout, const MogaConfig& config, int64_t batch,
                              torch::Device device) {
  MOGA_CHECK(batch > 0, "static groups: expected a positive batch, found {}", batch);
  return plan_static_groups(std::vector<FilmLayout>(static_cast<size_t>(batch), layout), config, device);
}

StaticPlan plan_static_groups(const std::vector<FilmLayout>& layouts, const MogaConfig& config,
                              torch::Device device, const StaticSizes* sizes) {
  MOGA_CHECK(!layouts.empty(), "static groups: no films");
  const FilmLayout& first = layouts.front();
  for (const FilmLayout& layout : layouts) {
    layout.check();
    MOGA_CHECK(layout.frames == first.frames && layout.rows == first.rows && layout.cols == first.cols,
               "static groups: the films of a batch must have one size");
  }
  StaticPlan plan;
  plan.batch = static_cast<int64_t>(layouts.size());
  for (const StaticKind& kind : static_kinds(config)) {
    std::vector<GroupIndex> parts;
    for (const FilmLayout& layout : layouts) {
      parts.push_back(kind.make(layout));
    }
    GroupIndex all = concat_groups(parts, first.tokens(), first.tokens());
    plan.*kind.groups = sizes == nullptr
                            ? to_groups(all, device)
                            : to_padded_groups(std::move(all), sizes->*kind.sizes, plan.batch, device);
  }
  return plan;
}

static torch::Tensor attend_all(const torch::Tensor& q_LND, const torch::Tensor& k_LND,
                                const torch::Tensor& v_LND, const StaticPlan& plan, const Routing& routing,
                                const MogaConfig& config) {
  const auto part = [&](const Groups& groups, const char* name, double share) {
    MOGA_CHECK(groups.q_index.defined(),
               "visual attention '{}': the plan holds no {} groups, so it was made for "
               "another kind of attention",
               enum_name(config.kind), name);
    return AttentionPart{&groups, {}, share};
  };
  Groups routed_groups;
  const auto routed = [&](double share) {
    MOGA_CHECK(routing.group_ids_L.defined() && routing.top_prob_L.defined(),
               "visual attention '{}' needs a routing", enum_name(config.kind));
    routed_groups = groups_from_ids(routing.group_ids_L, config.groups, plan.batch);
    return AttentionPart{&routed_groups, routing.top_prob_L, share};
  };
  const auto sum = [&](const std::vector<AttentionPart>& parts) {
    return summed_attention(q_LND, k_LND, v_LND, parts);
  };
  switch (config.kind) {
    case AttentionKind::kFull:
      return sum({part(plan.full, "full", 1.0)});
    case AttentionKind::kDynamic:
      return sum({routed(1.0)});
    case AttentionKind::kStatic:
      return sum({part(plan.windows, "window", 1.0 / 2), part(plan.frames, "frame", 1.0 / 2)});
    case AttentionKind::kMoga:
      return sum(
          {part(plan.windows, "window", 1.0 / 3), part(plan.frames, "frame", 1.0 / 3), routed(1.0 / 3)});
  }
  fail("visual attention: unknown kind");
}

torch::Tensor visual_attention(const torch::Tensor& q_LND, const torch::Tensor& k_LND,
                               const torch::Tensor& v_LND, const StaticPlan& plan, const Routing& routing,
                               const MogaConfig& config) {
  if (const auto type = compat::autocast_type(q_LND.device())) {  // once for all groups
    const compat::Autocast off(q_LND.device(), std::nullopt);
    return visual_attention(q_LND.to(*type), k_LND.to(*type), v_LND.to(*type), plan, routing, config);
  }
  if (plan.sequence == nullptr) {
    return attend_all(q_LND, k_LND, v_LND, plan, routing, config);
  }
  const bool routed = config.kind == AttentionKind::kMoga || config.kind == AttentionKind::kDynamic;
  return plan.sequence->attend(q_LND, k_LND, v_LND, routed ? routing : Routing(),
                               [&](const auto& q, const auto& k, const auto& v, const Routing& all) {
                                 return attend_all(q, k, v, plan, all, config);
                               });
}

}  // namespace moga
