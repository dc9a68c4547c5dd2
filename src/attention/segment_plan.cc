#include "attention/segment_plan.h"

#include <algorithm>

#include "attention/segment_batches.h"
#include "attention/upload.h"

namespace moga {
namespace {

struct PieceRange {
  int64_t begin;
  int64_t length;
};

PlanSide plan_side(const std::vector<PieceRange>& pieces, int64_t length, torch::Device device) {
  PlanSide side;
  side.length = length;
  side.begin = pieces.front().begin;
  side.in_place = true;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const int64_t expected = side.begin + static_cast<int64_t>(i) * length;
    side.in_place = side.in_place && pieces[i].length == length && pieces[i].begin == expected;
  }
  if (side.in_place) {
    return side;
  }
  std::vector<int64_t> slots;
  std::vector<int64_t> valid_places;
  std::vector<int64_t> valid_slots;
  slots.reserve(pieces.size() * static_cast<size_t>(length));
  for (const PieceRange& piece : pieces) {
    for (int64_t i = 0; i < length; ++i) {
      if (i < piece.length) {
        valid_places.push_back(static_cast<int64_t>(slots.size()));
        valid_slots.push_back(piece.begin + i);
      }
      slots.push_back(piece.begin + (i < piece.length ? i : 0));
    }
  }
  const auto to_device = [&](const std::vector<int64_t>& values) {
    return torch::tensor(values, torch::kInt64).to(device);
  };
  side.slots = to_device(slots);
  if (valid_slots.size() == slots.size()) {
    return side;
  }
  side.valid_places = to_device(valid_places);
  side.valid_slots = to_device(valid_slots);
  std::vector<int64_t> lengths;
  for (const PieceRange& piece : pieces) {
    lengths.push_back(piece.length);
  }
  side.padding = torch::arange(length, side.slots.options()).unsqueeze(0).ge(to_device(lengths).unsqueeze(1));
  return side;
}

SegmentPlan make_plan(const Groups& groups, int64_t heads, torch::Device device) {
  const torch::Tensor q_offsets = groups.q_offsets.cpu().contiguous();
  const torch::Tensor kv_offsets = groups.kv_offsets.cpu().contiguous();
  const BatchTarget target = device.is_cpu() ? BatchTarget::kCpu : BatchTarget::kCuda;
  const auto batches = segment_batches(q_offsets.data_ptr<int64_t>(), kv_offsets.data_ptr<int64_t>(),
                                       groups.segments(), batch_limits(target, heads));
  SegmentPlan plan;
  for (size_t i = 0; i < batches.size(); ++i) {
    const SegmentBatch& batch = batches[i];
    std::vector<PieceRange> q;
    std::vector<PieceRange> kv;
    for (const SegmentPiece& piece : batch.pieces) {
      q.push_back({piece.q_begin, piece.q_len});
      kv.push_back({piece.kv_begin, piece.kv_len});
    }
    const bool continues = i > 0 && batches[i - 1].pieces.front().segment == batch.pieces.front().segment;
    if (!continues) {
      plan.runs.push_back(i);
    }
    plan.batches.push_back({static_cast<int64_t>(batch.pieces.size()), plan_side(q, batch.q_len, device),
                            plan_side(kv, batch.kv_len, device)});
  }
  plan.runs.push_back(batches.size());
  return plan;
}

int64_t longest_segment(const torch::Tensor& offsets) {
  const auto lengths = offsets.slice(0, 1).sub(offsets.slice(0, 0, -1));
  return lengths.numel() == 0 ? 0 : lengths.max().item<int64_t>();
}

bool all_of_length(const torch::Tensor& offsets, int64_t length) {
  return length > 0 && offsets[-1].item<int64_t>() == (offsets.numel() - 1) * length;
}

DeviceOffsets make_offsets(const Groups& groups, torch::Device device) {
  const auto move = [&](const torch::Tensor& offsets) { return upload(offsets.to(torch::kInt32), device); };
  const bool on_host = groups.q_offsets.is_cpu();
  DeviceOffsets result;
  result.q = move(groups.q_offsets);
  result.kv = groups.kv_offsets.is_same(groups.q_offsets) ? result.q : move(groups.kv_offsets);
  result.longest_q = on_host ? longest_segment(groups.q_offsets) : *groups.longest;
  result.longest_kv = on_host ? longest_segment(groups.kv_offsets) : *groups.longest;
  result.equal = on_host && all_of_length(groups.q_offsets, result.longest_q) &&
                 all_of_length(groups.kv_offsets, result.longest_kv);
  return result;
}

// Forgets what was worked out for other segments, another device or another number of heads (0: any).
void fit_cache(SegmentPlanCache& cache, const Groups& groups, int64_t heads, torch::Device device) {
  const bool same = cache.q_offsets.defined() && cache.device == device &&
                    cache.q_offsets.is_same(groups.q_offsets) && cache.kv_offsets.is_same(groups.kv_offsets);
  if (!same) {
    cache.plan.reset();
    cache.offsets.reset();
    cache.cpu_plan.reset();
    cache.q_offsets = groups.q_offsets;
    cache.kv_offsets = groups.kv_offsets;
    cache.device = device;
  }
  if (heads != 0 && cache.heads != heads) {
    cache.plan.reset();
    cache.heads = heads;
  }
}

SlotSide slot_side(const torch::Tensor& index, IndexOrder order, int64_t tokens, SegmentPlanCache* cache,
                   CachedInverse SegmentPlanCache::*member) {
  SlotSide side{index, order, tokens};
  if (side.covers()) {
    return side;
  }
  if (cache == nullptr) {
    side.inverse = invert_index(index, tokens);
    return side;
  }
  const std::lock_guard<std::mutex> lock(cache->mutex);
  CachedInverse& cached = cache->*member;
  if (!cached.index.defined() || !cached.index.is_same(index) || cached.tokens != tokens) {
    cached = {index, tokens, invert_index(index, tokens)};
  }
  side.inverse = cached.inverse;
  return side;
}

}  // namespace

SlotSide q_slot_side(const Groups& groups, int64_t tokens) {
  return slot_side(groups.q_index, groups.q_order, tokens, groups.plan_cache.get(),
                   &SegmentPlanCache::q_inverse);
}

SlotSide kv_slot_side(const Groups& groups, int64_t tokens) {
  return slot_side(groups.kv_index, groups.kv_order, tokens, groups.plan_cache.get(),
                   &SegmentPlanCache::kv_inverse);
}

std::shared_ptr<const SegmentPlan> segment_plan(const Groups& groups, int64_t heads, torch::Device device) {
  if (!groups.plan_cache) {
    return std::make_shared<const SegmentPlan>(make_plan(groups, heads, device));
  }
  SegmentPlanCache& cache = *groups.plan_cache;
  const std::lock_guard<std::mutex> lock(cache.mutex);
  fit_cache(cache, groups, heads, device);
  if (!cache.plan) {
    cache.plan = std::make_shared<const SegmentPlan>(make_plan(groups, heads, device));
  }
  return cache.plan;
}

std::shared_ptr<const cpu::AttentionPlan> cpu_plan(const Groups& groups, const cpu::Segments& segments,
                                                   const cpu::AttentionShape& shape) {
  if (!groups.plan_cache) {
    return cpu::plan_attention(segments, shape);
  }
  SegmentPlanCache& cache = *groups.plan_cache;
  const std::lock_guard<std::mutex> lock(cache.mutex);
  fit_cache(cache, groups, /*heads=*/0, torch::kCPU);
  const bool same = cache.cpu_plan && cache.cpu_shape == shape && cache.q_index.is_same(groups.q_index) &&
                    cache.kv_index.is_same(groups.kv_index);
  if (!same) {
    cache.cpu_plan = cpu::plan_attention(segments, shape);
    cache.cpu_shape = shape;
    cache.q_index = groups.q_index;
    cache.kv_index = groups.kv_index;
  }
  return cache.cpu_plan;
}

DeviceOffsets device_offsets(const Groups& groups, torch::Device device) {
  if (!groups.plan_cache) {
    return make_offsets(groups, device);
  }
  SegmentPlanCache& cache = *groups.plan_cache;
  const std::lock_guard<std::mutex> lock(cache.mutex);
  fit_cache(cache, groups, /*heads=*/0, device);
  if (!cache.offsets) {
    cache.offsets = make_offsets(groups, device);
  }
  return *cache.offsets;
}

}  // namespace moga
