#include "attention/groups.h"

#include <algorithm>

#include "attention/device_kernels.h"
#include "attention/segment_plan.h"
#include "attention/torch_compat.h"
#include "attention/upload.h"
#include "base/error.h"

namespace moga {
namespace {

void check_side(const char* side, const torch::Tensor& index, const torch::Tensor& offsets) {
  MOGA_CHECK(index.defined() && offsets.defined(), "groups: {}_index and {}_offsets must be given", side,
             side);
  MOGA_CHECK(index.dim() == 1 && index.scalar_type() == torch::kInt64,
             "groups: expected {}_index to be int64 of one dimension, found {} [{}]", side,
             c10::toString(index.scalar_type()), fmt::join(index.sizes(), ", "));
  MOGA_CHECK(
      offsets.dim() == 1 && offsets.scalar_type() == torch::kInt64 &&
          (offsets.device().is_cpu() || offsets.device() == index.device()),
      "groups: expected {}_offsets to be int64 of one dimension on the CPU or on {}, found {} [{}] on {}",
      side, index.device().str(), c10::toString(offsets.scalar_type()), fmt::join(offsets.sizes(), ", "),
      offsets.device().str());
  MOGA_CHECK(offsets.numel() >= 1, "groups: {}_offsets is empty, expected at least the leading 0", side);
  if (!offsets.device().is_cpu()) {
    return;
  }
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

IndexOrder index_order(const std::vector<int64_t>& index) {
  std::vector<bool> seen(index.size());
  bool identity = true;
  for (size_t i = 0; i < index.size(); ++i) {
    const auto at = static_cast<size_t>(index[i]);
    if (index[i] < 0 || at >= index.size() || seen[at]) {
      return IndexOrder::kAny;
    }
    seen[at] = true;
    identity = identity && at == i;
  }
  return identity ? IndexOrder::kIdentity : IndexOrder::kPermutation;
}

// Stable order of the samples' tokens by group, and where the groups start: a counting sort, in which a
// token's place in its group is the number of the group's tokens before it. Never leaves the device.
std::pair<torch::Tensor, torch::Tensor> counting_sort(const torch::Tensor& ids_BL, int64_t group_count) {
  if constexpr (kHaveDeviceKernels) {
    if (ids_BL.is_cuda() && device_sorts(group_count)) {
      return device_sort(ids_BL, group_count);
    }
  }
  const auto one_hot_BLM = ids_BL.unsqueeze(2).eq(torch::arange(group_count, ids_BL.options()));
  const auto running_BLM = one_hot_BLM.cumsum(1, torch::kInt32);
  const auto ends = running_BLM.select(1, -1).flatten().cumsum(0, torch::kInt64);
  const auto offsets = torch::constant_pad_nd(ends, {1, 0}, 0);
  const auto start_BM = offsets.slice(0, 0, -1).view({-1, group_count});
  const auto before_BL = running_BLM.gather(2, ids_BL.unsqueeze(2)).squeeze(2) - 1;
  const auto place_L = (before_BL + start_BM.gather(1, ids_BL)).flatten();
  const auto order_L =
      torch::empty_like(place_L).scatter_(0, place_L, torch::arange(place_L.numel(), place_L.options()));
  return {order_L, offsets};
}

}  // namespace

double Groups::pairs() const {
  const auto lengths = [](const torch::Tensor& offsets) {
    const auto host = offsets.cpu();
    return host.slice(0, 1).sub(host.slice(0, 0, -1)).to(torch::kFloat64);
  };
  return lengths(q_offsets).dot(lengths(kv_offsets)).item<double>();
}

void Groups::check(int64_t q_tokens, int64_t kv_tokens) const {
  check_side("q", q_index, q_offsets);
  check_side("kv", kv_index, kv_offsets);
  MOGA_CHECK(q_offsets.numel() == kv_offsets.numel(), "groups: {} query segments but {} key segments",
             q_offsets.numel() - 1, kv_offsets.numel() - 1);
  MOGA_CHECK(q_offsets.device() == kv_offsets.device(), "groups: q_offsets are on {}, kv_offsets on {}",
             q_offsets.device().str(), kv_offsets.device().str());
  MOGA_CHECK(q_offsets.device().is_cpu() || longest, "groups: offsets on a device need `longest`");
  MOGA_CHECK(q_index.device() == kv_index.device(), "groups: q_index is on {}, kv_index on {}",
             q_index.device().str(), kv_index.device().str());
  check_bound("q", q_index, q_bound, q_tokens);
  check_bound("kv", kv_index, kv_bound, kv_tokens);
}

Groups to_groups(const GroupIndex& index, torch::Device device) {
  Groups groups;
  groups.q_index = upload(to_tensor(index.q_index), device);
  groups.q_offsets = to_tensor(index.q_offsets);
  groups.kv_index = upload(to_tensor(index.kv_index), device);
  groups.kv_offsets = to_tensor(index.kv_offsets);
  groups.q_order = index_order(index.q_index);
  groups.kv_order = index_order(index.kv_index);
  groups.q_bound = known_bound(index.q_index);
  groups.kv_bound = known_bound(index.kv_index);
  groups.plan_cache = std::make_shared<SegmentPlanCache>();
  return groups;
}

Groups to_padded_groups(GroupIndex batch, const GroupSizes& film, int64_t films, torch::Device device) {
  pad_groups(batch, film, films);
  Groups groups = to_groups(batch, device);
  groups.q_offsets = upload(groups.q_offsets, device);
  groups.kv_offsets = upload(groups.kv_offsets, device);
  groups.longest = film.longest;
  if (film.padded()) {
    groups.kv_order = IndexOrder::kAny;
  }
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
  if (ids.is_cpu()) {
    const auto bad = ids.lt(0).logical_or(ids.ge(group_count)).sum().item<int64_t>();
    MOGA_CHECK(bad == 0, "groups_from_ids: {} of {} ids are outside [0, {})", bad, tokens, group_count);
  }
  Groups groups;
  if (tokens == 0) {
    groups.q_index = ids;
    groups.q_offsets = torch::zeros({batch * group_count + 1}, torch::kInt64);
  } else {
    std::tie(groups.q_index, groups.q_offsets) = counting_sort(ids.view({batch, -1}), group_count);
  }
  groups.kv_index = groups.q_index;
  groups.kv_offsets = groups.q_offsets;
  groups.longest = tokens / batch;
  groups.q_order = IndexOrder::kPermutation;
  groups.kv_order = IndexOrder::kPermutation;
  groups.q_bound = tokens;
  groups.kv_bound = tokens;
  groups.plan_cache = std::make_shared<SegmentPlanCache>();
  return groups;
}

}  // namespace moga
