#include "kernels/cpu/grouped_attention_cpu.h"

#include <omp.h>

#include <algorithm>
#include <exception>
#include <memory>
#include <new>
#include <thread>
#include <tuple>
#include <vector>

#include "base/error.h"
#include "kernels/cpu/attention_items.h"
#include "kernels/cpu/attention_schedule.h"

namespace moga::cpu {

class AttentionPlan {
 public:
  AttentionShape shape;
  int64_t segments = 0;
  int64_t q_slots = 0;
  int64_t kv_slots = 0;
  AttentionTiles tiles;
  bool q_repeats = false;  // a token stands in several slots
  bool kv_repeats = false;
  bool q_covers = false;  // every token stands in some slot
  int64_t threads = 1;    // that the forward items were cut for
  std::vector<AttentionItem> forward;
  std::vector<AttentionItem> backward;
  // The items of a segment, [begin, begin + items) of `forward`; one entry for each of them.
  struct Run {
    int64_t begin = 0;
    int64_t items = 0;
  };
  std::vector<Run> forward_runs;
};

namespace {

struct IndexFacts {
  bool repeats = false;
  bool covers = false;
};

void check_offsets(const int64_t* offsets, int64_t segments, const char* name) {
  MOGA_CHECK(offsets[0] == 0, "attention plan: {} offsets must start with 0, found {}", name, offsets[0]);
  for (int64_t s = 0; s < segments; ++s) {
    MOGA_CHECK(offsets[s] <= offsets[s + 1], "attention plan: {} offsets fall from {} to {} at segment {}",
               name, offsets[s], offsets[s + 1], s);
  }
}

IndexFacts read_index(const int64_t* index, int64_t slots, int64_t tokens, const char* name) {
  std::vector<bool> seen(static_cast<size_t>(tokens));
  IndexFacts facts;
  int64_t distinct = 0;
  for (int64_t i = 0; i < slots; ++i) {
    MOGA_CHECK(index[i] >= 0 && index[i] < tokens, "attention plan: {} index {} at slot {} is not in [0, {})",
               name, index[i], i, tokens);
    const auto token = static_cast<size_t>(index[i]);
    if (seen[token]) {
      facts.repeats = true;
    } else {
      seen[token] = true;
      ++distinct;
    }
  }
  facts.covers = distinct == tokens;
  return facts;
}

void check_rows(const Rows& x, const char* name, int64_t tokens, const AttentionShape& shape) {
  MOGA_CHECK(x.tokens == tokens && x.heads == shape.heads && x.dim == shape.dim,
             "attention: {} is [{}, {}, {}], expected [{}, {}, {}]", name, x.tokens, x.heads, x.dim, tokens,
             shape.heads, shape.dim);
  MOGA_CHECK(x.data != nullptr || tokens * shape.heads * shape.dim == 0, "attention: {} has no data", name);
}

// Rows that are written must not lie on each other.
void check_apart(const Rows& x, const char* name) {
  const int64_t row = x.dim;
  const int64_t inner = x.head_stride <= x.token_stride || x.tokens <= 1 ? x.heads : x.tokens;
  const int64_t low = inner == x.heads ? x.head_stride : x.token_stride;
  const int64_t high = inner == x.heads ? x.token_stride : x.head_stride;
  const int64_t outer = inner == x.heads ? x.tokens : x.heads;
  const bool fits = (inner <= 1 || low >= row) && (outer <= 1 || high >= (inner - 1) * low + row);
  MOGA_CHECK(fits, "attention: rows of {} overlap: strides {} a token and {} a head for {} heads of {}", name,
             x.token_stride, x.head_stride, x.heads, x.dim);
}

void check_segments(const AttentionPlan& plan, const Segments& segments) {
  MOGA_CHECK(segments.count == plan.segments &&
                 (segments.count == 0 || (segments.q_offsets[segments.count] == plan.q_slots &&
                                          segments.kv_offsets[segments.count] == plan.kv_slots)),
             "attention: the plan was made for other segments");
  for (const auto& [index, slots, tokens, name] :
       {std::tuple{segments.q_index, plan.q_slots, plan.shape.q_tokens, "query"},
        std::tuple{segments.kv_index, plan.kv_slots, plan.shape.kv_tokens, "key"}}) {
    bool inside = true;
    for (int64_t i = 0; i < slots; ++i) {
      inside &= static_cast<uint64_t>(index[i]) < static_cast<uint64_t>(tokens);
    }
    MOGA_CHECK(inside, "attention: a {} index is not in [0, {})", name, tokens);
  }
}

// A thread's scratch memory, kept from call to call.
float* thread_scratch(size_t floats) {
  constexpr size_t kAlign = 64;
  struct Free {
    void operator()(float* x) const { ::operator delete[](x, std::align_val_t{kAlign}); }
  };
  thread_local std::unique_ptr<float[], Free> memory;
  thread_local size_t size = 0;
  if (size < floats) {
    memory.reset();
    size = 0;
    memory.reset(static_cast<float*>(::operator new[](floats * sizeof(float), std::align_val_t{kAlign})));
    size = floats;
  }
  return memory.get();
}

// body(unit, scratch) for units 0 .. count - 1, taken in order by all threads. An exception (no memory) is
// thrown again when all have ended.
template <typename Body>
void for_each_unit(int64_t count, size_t scratch_floats, const Body& body) {
  std::atomic<int64_t> next{0};
  std::exception_ptr error;
#pragma omp parallel if (count > 1)
  {
    try {
      float* scratch = thread_scratch(scratch_floats);
      for (int64_t unit = next++; unit < count; unit = next++) {
        body(unit, scratch);
      }
    } catch (...) {
#pragma omp critical
      error = std::current_exception();
    }
  }
  if (error) {
    std::rethrow_exception(error);
  }
}

void zero_rows(const MutableRows& x) {
#pragma omp parallel for
  for (int64_t t = 0; t < x.tokens; ++t) {
    for (int64_t n = 0; n < x.heads; ++n) {
      std::fill_n(static_cast<char*>(x.mutable_row(t, n)), static_cast<size_t>(x.dim) * bytes_of(x.storage),
                  char{0});
    }
  }
}

void zero(float* x, int64_t count) {
#pragma omp parallel for
  for (int64_t begin = 0; begin < count; begin += int64_t{1} << 16) {
    std::fill_n(x + begin, std::min(count - begin, int64_t{1} << 16), 0.0F);
  }
}

}  // namespace

void wait_for_progress(const std::atomic<int64_t>& progress, int64_t least) {
  for (int spins = 0; progress.load(std::memory_order_acquire) < least; ++spins) {
    if (spins >= 1000) {  // the other thread may not be running at all
      std::this_thread::yield();
    }
  }
}

void report_progress(std::atomic<int64_t>& progress, int64_t value) {
  progress.store(value, std::memory_order_release);
}

std::shared_ptr<const AttentionPlan> plan_attention(const Segments& segments, const AttentionShape& shape) {
  MOGA_CHECK(shape.dim >= 1 && shape.dim <= kMaxHeadSize, "attention plan: head size {} is not in [1, {}]",
             shape.dim, kMaxHeadSize);
  MOGA_CHECK(shape.heads >= 1 && shape.q_tokens >= 0 && shape.kv_tokens >= 0 && segments.count >= 0,
             "attention plan: {} heads, {} queries, {} keys, {} segments", shape.heads, shape.q_tokens,
             shape.kv_tokens, segments.count);
  auto plan = std::make_shared<AttentionPlan>();
  plan->shape = shape;
  plan->segments = segments.count;
  plan->tiles = attention_tiles(shape.dim);
  plan->threads = omp_get_max_threads();
  if (segments.count == 0) {
    plan->q_covers = shape.q_tokens == 0;
    return plan;
  }
  check_offsets(segments.q_offsets, segments.count, "query");
  check_offsets(segments.kv_offsets, segments.count, "key");
  plan->q_slots = segments.q_offsets[segments.count];
  plan->kv_slots = segments.kv_offsets[segments.count];
  const IndexFacts q = read_index(segments.q_index, plan->q_slots, shape.q_tokens, "query");
  const IndexFacts kv = read_index(segments.kv_index, plan->kv_slots, shape.kv_tokens, "key");
  plan->q_repeats = q.repeats;
  plan->q_covers = q.covers;
  plan->kv_repeats = kv.repeats;
  plan->forward = forward_items(segments.q_offsets, segments.kv_offsets, segments.count, plan->tiles,
                                shape.heads, plan->threads);
  for (const AttentionItem& item : plan->forward) {
    const auto at = static_cast<int64_t>(plan->forward_runs.size());
    const int64_t begin = item.continues ? plan->forward_runs.back().begin : at;
    plan->forward_runs.push_back({begin, 0});
    ++plan->forward_runs[static_cast<size_t>(begin)].items;
  }
  for (AttentionPlan::Run& run : plan->forward_runs) {
    run = plan->forward_runs[static_cast<size_t>(run.begin)];
  }
  plan->backward = backward_items(segments.q_offsets, segments.kv_offsets, segments.count, plan->tiles);
  return plan;
}

void attention_forward(const AttentionPlan& plan, const Segments& segments, const ForwardArguments& x) {
  check_segments(plan, segments);
  check_rows(x.q, "q", plan.shape.q_tokens, plan.shape);
  check_rows(x.k, "k", plan.shape.kv_tokens, plan.shape);
  check_rows(x.v, "v", plan.shape.kv_tokens, plan.shape);
  check_rows(x.out, "out", plan.shape.q_tokens, plan.shape);
  check_apart(x.out, "out");
  const bool overwrite = x.output == Output::kWrite;
  const bool direct = overwrite && plan.q_covers && !plan.q_repeats;
  if (overwrite && !direct) {
    zero_rows(x.out);
  }
  const AttentionFunctions functions = attention_functions();
  const ForwardJob job = {&x, &segments, plan.tiles, !direct};
  const auto items = static_cast<int64_t>(plan.forward.size());
  const size_t scratch = forward_scratch_floats(plan.tiles);
  if (plan.q_repeats) {
    // Rows that several items add to: one thread a head, in order.
    for_each_unit(plan.shape.heads, scratch, [&](int64_t head, float* memory) {
      for (const AttentionItem& item : plan.forward) {
        functions.forward(job, item, head, memory);
      }
    });
    return;
  }
  // A segment is done with, head by head, before the next begins: its heads' rows lie side by side in memory,
  // and the blocks of one head meet the same keys.
  for_each_unit(plan.shape.heads * items, scratch, [&](int64_t unit, float* memory) {
    const AttentionPlan::Run& run = plan.forward_runs[static_cast<size_t>(unit / plan.shape.heads)];
    const int64_t at = unit - run.begin * plan.shape.heads;
    functions.forward(job, plan.forward[static_cast<size_t>(run.begin + at % run.items)], at / run.items,
                      memory);
  });
}

void attention_backward(const AttentionPlan& plan, const Segments& segments, const BackwardArguments& x) {
  check_segments(plan, segments);
  check_rows(x.q, "q", plan.shape.q_tokens, plan.shape);
  check_rows(x.k, "k", plan.shape.kv_tokens, plan.shape);
  check_rows(x.v, "v", plan.shape.kv_tokens, plan.shape);
  check_rows(x.dout, "dout", plan.shape.q_tokens, plan.shape);
  const int64_t heads = plan.shape.heads;
  const int64_t dim = plan.shape.dim;
  MOGA_CHECK(
      plan.q_slots * plan.kv_slots == 0 || (x.dq != nullptr && x.dk != nullptr && x.dv != nullptr &&
                                            x.delta != nullptr && x.lse != nullptr && x.slot_out != nullptr),
      "attention backward: dq, dk, dv, delta, lse and slot_out must be given");
  zero(x.dq, plan.shape.q_tokens * heads * dim);
  zero(x.dk, plan.shape.kv_tokens * heads * dim);
  zero(x.dv, plan.shape.kv_tokens * heads * dim);

  // forward: out[t] = factor * row_scale[t] * o, so delta = dout . o serves both row_scale and, scaled, ds.
  std::vector<float> row_delta(x.drow_scale != nullptr ? static_cast<size_t>(plan.q_slots) : 0);
  const AttentionFunctions functions = attention_functions();
#pragma omp parallel for
  for (int64_t slot = 0; slot < plan.q_slots; ++slot) {
    const int64_t token = segments.q_index[slot];
    float all = 0.0F;
    for (int64_t n = 0; n < heads; ++n) {
      const float delta = functions.dot(x.dout, token, n, x.slot_out + (slot * heads + n) * dim);
      x.delta[slot * heads + n] = delta;
      all += delta;
    }
    if (!row_delta.empty()) {
      row_delta[static_cast<size_t>(slot)] = x.factor * all;
    }
  }
  if (x.drow_scale != nullptr) {
    std::fill_n(x.drow_scale, plan.shape.q_tokens, 0.0F);
    for (int64_t slot = 0; slot < plan.q_slots; ++slot) {
      x.drow_scale[segments.q_index[slot]] += row_delta[static_cast<size_t>(slot)];
    }
  }

  const BackwardJob job = {&x, &segments, plan.tiles};
  const auto items = static_cast<int64_t>(plan.backward.size());
  std::vector<std::atomic<int64_t>> progress(static_cast<size_t>(items * heads));
  // Heads turn fastest, so that a unit's predecessor (its head's item before) was taken long ago.
  for_each_unit(items * heads, backward_scratch_floats(plan.tiles), [&](int64_t unit, float* memory) {
    const int64_t i = unit / heads;
    const AttentionItem& item = plan.backward[static_cast<size_t>(i)];
    BackwardOrder order;
    order.mine = &progress[static_cast<size_t>(unit)];
    if (i > 0) {
      order.previous = &progress[static_cast<size_t>(unit - heads)];
      order.tile_by_tile = item.continues && !plan.q_repeats;
      order.after_queries = plan.q_repeats;
      order.after_keys = plan.kv_repeats;
    }
    functions.backward(job, item, order, unit % heads, memory);
    // Waiting for the one before makes "done" mean "all before are done" where anybody asks for it.
    if (i > 0 && (plan.q_repeats || plan.kv_repeats)) {
      wait_for_progress(*order.previous, kUnitDone);
    }
    report_progress(*order.mine, kUnitDone);
  });
}

}  // namespace moga::cpu
