// The batches of segment_batches.h as index tensors on the device of the data.
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "attention/groups.h"
#include "attention/slot_rows.h"
#include "kernels/cpu/grouped_attention_cpu.h"

namespace moga {

// n matrices of a queries by b keys. Where the pieces all have one size and follow each other in the slots,
// they are read in place (begin set, indices undefined); else they are gathered, and padded places repeat the
// first slot of their own segment: a NaN in one segment then never meets another.
struct PlanSide {
  int64_t length = 0;     // a or b
  bool in_place = false;  // slots [begin, begin + n * length)
  int64_t begin = 0;
  torch::Tensor slots;         // [n * length] int64
  torch::Tensor valid_places;  // places of [0, n * length) that are no padding
  torch::Tensor valid_slots;   // their slots
  torch::Tensor padding;       // [n, length] bool, undefined if nothing is padded
};

struct PlanBatch {
  int64_t count = 0;  // n
  PlanSide q;
  PlanSide kv;
};

struct SegmentPlan {
  std::vector<PlanBatch> batches;
  // Batches [runs[i], runs[i + 1]) hold pieces of one segment, whose key gradients add: one thread's work.
  std::vector<size_t> runs;
};

// The segments' offsets for kernels that run over all of them at once.
struct DeviceOffsets {
  torch::Tensor q;   // [S + 1] int32, on the device of the data
  torch::Tensor kv;  // [S + 1] int32
  int64_t longest_q = 0;
  int64_t longest_kv = 0;
  bool equal = false;  // known to be: every segment has longest_q queries and longest_kv keys
};

// An inverse and what it was made for.
struct CachedInverse {
  torch::Tensor index;
  int64_t tokens = 0;
  SlotInverse inverse;
};

struct SegmentPlanCache {
  std::mutex mutex;
  std::shared_ptr<const SegmentPlan> plan;
  std::optional<DeviceOffsets> offsets;
  // What the plan was made for.
  torch::Tensor q_offsets;
  torch::Tensor kv_offsets;
  std::shared_ptr<const cpu::AttentionPlan> cpu_plan;
  // What that one was made for beside the offsets: it looks into the indices.
  torch::Tensor q_index;
  torch::Tensor kv_index;
  cpu::AttentionShape cpu_shape;
  int64_t heads = 0;
  torch::Device device = torch::kCPU;
  CachedInverse q_inverse;
  CachedInverse kv_inverse;
};

// From the cache of `groups` where it has one. `groups` must have been checked.
std::shared_ptr<const SegmentPlan> segment_plan(const Groups& groups, int64_t heads, torch::Device device);
// `segments` are those of `groups`, in plain memory.
std::shared_ptr<const cpu::AttentionPlan> cpu_plan(const Groups& groups, const cpu::Segments& segments,
                                                   const cpu::AttentionShape& shape);
DeviceOffsets device_offsets(const Groups& groups, torch::Device device);
// Sides for slot_rows.h, with their inverse where tokens may have several slots or none.
SlotSide q_slot_side(const Groups& groups, int64_t tokens);
SlotSide kv_slot_side(const Groups& groups, int64_t tokens);

}  // namespace moga
