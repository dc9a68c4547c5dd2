#include "attention/groups.h"

#include <algorithm>

#include "attention/segment_plan.h"
#include "attention/torch_compat.h"
#include "base/error.h"

namespace moga {
namespace {

void check_side(const char* side, const torch::Tensor& index, const torch::Tensor& offsets) {
  MOGA_CHECK(index.defined() && offsets.defined(), "groups: {}_index and {}_offsets must be given", side,
             side);
  MOGA_CHECK(index.dim() == 1 && index.scalar_type() == torch::kInt64,
             "groups: expected {}_index to be int64 of one dimension, found {} [{}]", side,
             c10::toString(index.scalar_type()), fmt::join(index.sizes(), ", "));
  MOGA_CHECK(offsets.dim() == 1 && offsets.scalar_type() == torch::kInt64 && offsets.device().is_cpu(),
             "groups: expected {}_offsets to be int64 of one dimension on the CPU, found {} [{}] on {}", side,
             c10::toString(offsets.scalar_type()), fmt::join(offsets.sizes(), ", "), offsets.device().str());
  MOGA_CHECK(offsets.numel() >= 1, "groups: {}_offsets is empty, expected at least the leading 0", side);
  const torch::Tensor dense = offsets.contiguous();
  const int64_t* o = dense.data_ptr<int64_t>();
  MOGA_CHECK(o[0] == 0, "groups: {}_offsets must start with 0, found {}", side, o[0]);
  for (int64_t s = 1; s < dense.numel(); ++s) {
    MOGA_CHECK(o[s - 1] <= o[s], "groups: {}_offsets fall from {} to {} at segment {}", side, o[s - 1], o[s],
               s - 1);
  }
  MOGA_CHECK(o[dense.numel() - 1] == index.numel(),
             "groups: {}_offsets end with {}, but {}_index has {} entries", side, o[dense.numel() - 1], side,
             index.numel());
}

void check_bound(const char* side, const torch::Tensor& index, std::optional<int64_t> bound, int64_t tokens) {
  const bool known = bound && *bound <= tokens && !index.device().is_cpu();
  if (index.numel() == 0 || known) {
    return;
  }
  // One transfer for both ends.
  const torch::Tensor ends = torch::stack({index.min(), index.max()}).cpu();
  const int64_t low = ends[0].item<int64_t>();
  const int64_t high = ends[1].item<int64_t>();
  MOGA_CHECK(low >= 0 && high < tokens, "groups: {}_index must lie in [0, {}), found {} to {}", side, tokens,
             low, high);
}

std::optional<int64_t> known_bound(const std::vector<int64_t>& index) {
  if (index.empty()) {
    return 0;
  }
  const auto [low, high] = std::minmax_element(index.begin(), index.end());
  return *low >= 0 ? std::optional<int64_t>(*high + 1) : std::nullopt;
}

torch::Tensor to_tensor(const std::vector<int64_t>& values) {
  return torch::tensor(values, torch::kInt64);
}

}  // namespace

double Groups::pairs() const {
  const auto lengths = [](const torch::Tensor& offsets) {
    return offsets.slice(0, 1).sub(offsets.slice(0, 0, offsets.numel() - 1)).to(torch::kFloat64);
  };
  return lengths(q_offsets).dot(lengths(kv_offsets)).item<double>();
}

void Groups::check(int64_t q_tokens, int64_t kv_tokens) const {
  check_side("q", q_index, q_offsets);
  check_side("kv", kv_index, kv_offsets);
  MOGA_CHECK(q_offsets.numel() == kv_offsets.numel(), "groups: {} query segments but {} key segments",
             q_offsets.numel() - 1, kv_offsets.numel() - 1);
  MOGA_CHECK(q_index.device() == kv_index.device(), "groups: q_index is on {}, kv_index on {}",
             q_index.device().str(), kv_index.device().str());
  check_bound("q", q_index, q_bound, q_tokens);
  check_bound("kv", kv_index, kv_bound, kv_tokens);
}

Groups to_groups(const GroupIndex& index, torch::Device device) {
  Groups groups;
  groups.q_index = to_tensor(index.q_index).to(device);
  groups.q_offsets = to_tensor(index.q_offsets);
  groups.kv_index = to_tensor(index.kv_index).to(device);
  groups.kv_offsets = to_tensor(index.kv_offsets);
  groups.q_bound = known_bound(index.q_index);
  groups.kv_bound = known_bound(index.kv_index);
  groups.plan_cache = std::make_shared<SegmentPlanCache>();
  return groups;
}

Groups groups_from_ids(const torch::Tensor& group_ids_L, int64_t group_count, int64_t batch) {
  MOGA_CHECK(group_ids_L.defined() && group_ids_L.dim() == 1 && group_ids_L.scalar_type() == torch::kInt64,
             "groups_from_ids: expected int64 ids of one dimension");
  MOGA_CHECK(group_count > 0 && batch > 0,
             "groups_from_ids: expected positive group count and batch, found {}, {}", group_count, batch);
  const int64_t tokens = group_ids_L.numel();
  MOGA_CHECK(tokens % batch == 0, "groups_from_ids: {} tokens do not split into {} equal samples", tokens,
             batch);
  const auto ids = group_ids_L.detach();
  const auto sample_B1 = torch::arange(batch, ids.options()).unsqueeze(1);
  const auto key_L = (ids.view({batch, -1}) + sample_B1 * group_count).reshape({-1});
  const auto [sorted_L, order_L] = compat::stable_sort(key_L);
  // Segment starts and the count of bad ids come over in one transfer.
  const auto starts = torch::searchsorted(sorted_L, torch::arange(batch * group_count + 1, ids.options()));
  const auto bad = ids.lt(0).logical_or(ids.ge(group_count)).sum().to(torch::kInt64).view({1});
  const auto host = torch::cat({starts, bad}).cpu();
  MOGA_CHECK(host[-1].item<int64_t>() == 0, "groups_from_ids: {} of {} ids are outside [0, {})",
             host[-1].item<int64_t>(), tokens, group_count);
  Groups groups;
  groups.q_index = order_L;
  groups.kv_index = order_L;
  groups.q_offsets = host.slice(0, 0, -1);
  groups.kv_offsets = groups.q_offsets;
  groups.q_bound = tokens;
  groups.kv_bound = tokens;
  return groups;
}

}  // namespace moga
