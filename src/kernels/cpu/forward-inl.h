// One item of the forward pass. Queries lie in the lanes of the vectors, so that neither keys nor values are
// ever turned: with a panel of queries turned once (Q^T, channels x queries),
//
//   S^T = K Q^T      keys x queries: rows of K are broadcast, as they lie in memory
//   P^T = 2^(S^T - running maximum)      down the lanes: no sum or maximum across a vector
//   O^T = O^T * correction + V^T P^T     channels x queries: rows of V are broadcast
//
// and only O is turned back at the end. It does not mask anything: segments are always full.
#if defined(MOGA_KERNELS_CPU_FORWARD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MOGA_KERNELS_CPU_FORWARD_INL_H_
#undef MOGA_KERNELS_CPU_FORWARD_INL_H_
#else
#define MOGA_KERNELS_CPU_FORWARD_INL_H_
#endif

#include <cmath>
#include <limits>

#include "kernels/cpu/attention_items.h"
#include "kernels/cpu/pack-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moga::cpu::HWY_NAMESPACE {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

// A block of queries with what has been summed up for them.
struct QueryBlock {
  float* q;    // panels of [dim][width]
  float* out;  // the same
  float* top;  // largest score so far, log2 units; kNothing at the start, when `out` holds anything
  float* sum;  // of 2^(score - top)
};

struct KeyTile {
  float* k;  // [keys][dim], and the last one again up to a multiple of kTileRows
  float* v;  // [dim / kTileRows][keys][kTileRows], blocks v_step apart
  size_t v_step;
  size_t keys;
};

// A running maximum need not be the largest score so far: whatever is subtracted, the weights' ratios are the
// same. So later tiles keep the first one's maximum while sums stay far from overflow, those with values of
// up to 2^95 too: then scores become weights as they leave the registers, and what was summed before needs no
// correction. Sums beyond this, and those that are no numbers, take the exact way.
constexpr float kMostSum = 0x1p32F;

// out += V^T P^T, out multiplied with `correction` before.
template <int kV, class Correct>
HWY_INLINE void add_values(const QueryBlock& block, const KeyTile& tile, size_t dim,
                           const float* HWY_RESTRICT weights, const Correct& correct) {
  const F d;
  constexpr size_t kWidth = kV * kLanes;
  for (size_t i = 0; i < dim; i += kTileRows) {
    float* HWY_RESTRICT out = block.out + i * kWidth;
    multiply_tile<kTileRows, kV, kTileRows>(
        Matrix{tile.v + i / kTileRows * tile.v_step, 1}, weights, kWidth, tile.keys,
        [&](int m, int v)
            HWY_ATTR { return correct(v, hn::LoadU(d, out + static_cast<size_t>(m) * kWidth + v * kLanes)); },
        [&](int m, int v, V o)
            HWY_ATTR { hn::StoreU(o, d, out + static_cast<size_t>(m) * kWidth + v * kLanes); });
  }
}

// Meets one panel of kV vectors of queries with one tile of keys. weights: room for [keys + padding][width].
// False, and nothing has changed, if the maximum so far does not serve.
template <int kV>
HWY_INLINE bool forward_panel_as_is(const QueryBlock& block, const KeyTile& tile, size_t dim,
                                    float* HWY_RESTRICT weights, RowsAhead& ahead) {
  const F d;
  constexpr size_t kWidth = kV * kLanes;
  const size_t keys = tile.keys;
  V below[kV];
  V sum[kV];
#pragma GCC unroll 4
  for (int v = 0; v < kV; ++v) {
    below[v] = hn::Neg(hn::LoadU(d, block.top + v * kLanes));
    sum[v] = hn::LoadU(d, block.sum + v * kLanes);
  }
  const auto start = [&](int, int v) HWY_ATTR { return below[v]; };
  size_t key = 0;
  for (; key + kTileRows <= keys; key += kTileRows) {
    float* HWY_RESTRICT to = weights + key * kWidth;
    multiply_tile<kTileRows, kV, 1>(Matrix{tile.k + key * dim, dim}, block.q, kWidth, dim, start,
                                    [&](int m, int v, V s) HWY_ATTR {
                                      const V p = exp2_of(s);
                                      hn::StoreU(p, d, to + static_cast<size_t>(m) * kWidth + v * kLanes);
                                      sum[v] = hn::Add(sum[v], p);
                                    });
    ahead.step();
  }
  if (key < keys) {  // the last key once more must not be summed once more
    float* HWY_RESTRICT to = weights + key * kWidth;
    multiply_tile<kTileRows, kV, 1>(
        Matrix{tile.k + key * dim, dim}, block.q, kWidth, dim, start, [&](int m, int v, V s) HWY_ATTR {
          hn::StoreU(exp2_of(s), d, to + static_cast<size_t>(m) * kWidth + v * kLanes);
        });
    for (; key < keys; ++key) {
#pragma GCC unroll 4
      for (int v = 0; v < kV; ++v) {
        sum[v] = hn::Add(sum[v], hn::LoadU(d, weights + key * kWidth + v * kLanes));
      }
    }
  }
  bool fine = true;
#pragma GCC unroll 4
  for (int v = 0; v < kV; ++v) {
    fine = fine && hn::AllTrue(d, hn::Le(sum[v], hn::Set(d, kMostSum)));
  }
  if (!fine) {
    return false;
  }
#pragma GCC unroll 4
  for (int v = 0; v < kV; ++v) {
    hn::StoreU(sum[v], d, block.sum + v * kLanes);
  }
  add_values<kV>(block, tile, dim, weights, [](int, V out) HWY_ATTR { return out; });
  return true;
}

// The same with the largest score so far as the maximum.
template <int kV>
HWY_INLINE void forward_panel_exactly(const QueryBlock& block, const KeyTile& tile, size_t dim,
                                      float* HWY_RESTRICT scores, RowsAhead& ahead) {
  const F d;
  constexpr size_t kWidth = kV * kLanes;
  const size_t keys = tile.keys;
  V top[kV];
#pragma GCC unroll 4
  for (int v = 0; v < kV; ++v) {
    top[v] = hn::LoadU(d, block.top + v * kLanes);
  }
  for (size_t key = 0; key < keys; key += kTileRows) {  // the last key once more makes no larger maximum
    float* HWY_RESTRICT to = scores + key * kWidth;
    multiply_tile<kTileRows, kV, 1>(
        Matrix{tile.k + key * dim, dim}, block.q, kWidth, dim, [&](int, int) HWY_ATTR { return hn::Zero(d); },
        [&](int m, int v, V s) HWY_ATTR {
          hn::StoreU(s, d, to + static_cast<size_t>(m) * kWidth + v * kLanes);
          top[v] = hn::Max(top[v], s);
        });
    ahead.step();
  }
  V correction[kV];
  hn::Mask<F> kept[kV];  // whether anything was summed before: if not, `out` holds no numbers
  V sum[kV];
#pragma GCC unroll 4
  for (int v = 0; v < kV; ++v) {
    const V before = hn::LoadU(d, block.top + v * kLanes);
    correction[v] = exp2_of(hn::Sub(before, top[v]));
    kept[v] = hn::Ne(before, hn::Set(d, kNothing));
    hn::StoreU(top[v], d, block.top + v * kLanes);
    sum[v] = hn::Mul(hn::LoadU(d, block.sum + v * kLanes), correction[v]);
  }
  for (size_t j = 0; j < keys; ++j) {
#pragma GCC unroll 4
    for (int v = 0; v < kV; ++v) {
      float* HWY_RESTRICT at = scores + j * kWidth + v * kLanes;
      const V p = exp2_of(hn::Sub(hn::LoadU(d, at), top[v]));
      hn::StoreU(p, d, at);
      sum[v] = hn::Add(sum[v], p);
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < kV; ++v) {
    hn::StoreU(sum[v], d, block.sum + v * kLanes);
  }
  add_values<kV>(block, tile, dim, scores, [&](int v, V out) HWY_ATTR {
    return hn::IfThenElseZero(kept[v], hn::Mul(out, correction[v]));
  });
}

template <int kV>
HWY_INLINE void forward_panel(const QueryBlock& block, const KeyTile& tile, size_t dim, bool first,
                              float* HWY_RESTRICT scores, RowsAhead& ahead) {
  if (first || !forward_panel_as_is<kV>(block, tile, dim, scores, ahead)) {
    forward_panel_exactly<kV>(block, tile, dim, scores, ahead);
  }
}

// Queries `slots` of one segment, all its keys, one head.
HWY_INLINE void forward_rows(const ForwardJob& job, int64_t first_slot, size_t queries,
                             const int64_t* kv_index, size_t keys, int64_t head, float* scratch) {
  const F d;
  const ForwardArguments& x = *job.arguments;
  const auto dim = static_cast<size_t>(job.tiles.dim);
  const auto true_dim = static_cast<size_t>(x.q.dim);
  const auto kv_tile = static_cast<size_t>(job.tiles.kv_tile);
  const auto q_block = static_cast<size_t>(job.tiles.q_block);
  const int64_t* slots = job.segments->q_index + first_slot;
  QueryBlock block = {scratch, scratch + q_block * dim, scratch + 2 * q_block * dim,
                      scratch + 2 * q_block * dim + q_block};
  KeyTile tile;
  tile.k = block.sum + q_block;
  tile.v = tile.k + (kv_tile + kMostTileRows) * dim;
  tile.v_step = block_step(HWY_MIN(kv_tile, keys));
  float* scores = tile.v + (kv_tile + kMostTileRows + 16) * dim;
  float* rows = scores + (kv_tile + kMostTileRows) * kWidestPanel;

  // Queries lie in panels of kPanel; the last one may be narrower.
  const size_t panels = (queries + kPanel - 1) / kPanel;
  const auto vectors_of = [&](size_t panel) HWY_ATTR {
    const size_t left = queries - panel * kPanel;
    return left >= kPanel ? static_cast<size_t>(kTileVectors) : (left + kLanes - 1) / kLanes;
  };
  const auto place = [&](size_t query) HWY_ATTR { return query / kPanel * kPanel * dim + query % kPanel; };
  const auto width = [&](size_t query) HWY_ATTR { return vectors_of(query / kPanel) * kLanes; };
  for (size_t q = 0; q < queries; q += kLanes) {
    pack_turned(x.q, slots + q, queries - q, head, x.scale * kLog2E, rows, dim, block.q + place(q), width(q));
    hn::StoreU(hn::Set(d, kNothing), d, block.top + q);
    hn::StoreU(hn::Zero(d), d, block.sum + q);
  }
  if (keys == 0) {
    std::memset(block.out, 0, panels * kPanel * dim * sizeof(float));
  }
  for (size_t begin = 0; begin < keys; begin += kv_tile) {
    tile.keys = HWY_MIN(kv_tile, keys - begin);
    pack_rows(x.k, kv_index + begin, tile.keys, head, tile.k, dim);
    pack_blocks(x.v, kv_index + begin, tile.keys, head, rows, dim, tile.v, tile.v_step);
    const size_t after = begin + tile.keys;
    RowsAhead ahead(x.k, x.v, kv_index + after, HWY_MIN(kv_tile, keys - after), head,
                    panels * (tile.keys / kTileRows));
    for (size_t panel = 0; panel < panels; ++panel) {
      const QueryBlock at = {block.q + panel * kPanel * dim, block.out + panel * kPanel * dim,
                             block.top + panel * kPanel, block.sum + panel * kPanel};
      switch (vectors_of(panel)) {
        case 1:
          forward_panel<1>(at, tile, dim, begin == 0, scores, ahead);
          break;
        case 2:
          forward_panel<2>(at, tile, dim, begin == 0, scores, ahead);
          break;
        default:
          forward_panel<3>(at, tile, dim, begin == 0, scores, ahead);
      }
    }
  }
  for (size_t q = 0; q < queries; q += kLanes) {
    for (size_t r = q + kLanes; r < HWY_MIN(q + 2 * kLanes, queries); ++r) {
      prefetch<1, 3>(x.out.row(slots[r], head), row_bytes(x.out));
    }
    const V factor = keys == 0 ? hn::Zero(d) : hn::Div(hn::Set(d, 1.0F), hn::LoadU(d, block.sum + q));
    turn_back(block.out + place(q), width(q), factor, dim, rows);
    for (size_t r = 0; r < HWY_MIN(kLanes, queries - q); ++r) {
      const int64_t token = slots[q + r];
      const int64_t slot = (first_slot + static_cast<int64_t>(q + r)) * x.q.heads + head;
      const float* row = rows + r * dim;
      if (x.slot_out != nullptr) {
        std::memcpy(x.slot_out + slot * x.q.dim, row, true_dim * sizeof(float));
      }
      if (x.lse != nullptr) {
        x.lse[slot] = keys == 0 ? kNothing : (block.top[q + r] + std::log2(block.sum[q + r])) * kLn2;
      }
      write_row(row, x.row_scale != nullptr ? x.factor * x.row_scale[token] : x.factor, job.add,
                x.out.storage, true_dim, x.out.mutable_row(token, head));
    }
  }
}

void forward_item(const ForwardJob& job, const AttentionItem& item, int64_t head, float* scratch) {
  const Segments& segments = *job.segments;
  for (int64_t s = item.segment_begin; s < item.segment_end; ++s) {
    const bool whole = item.segment_end - item.segment_begin > 1;
    const int64_t first = segments.q_offsets[s] + (whole ? 0 : item.begin);
    const int64_t last = whole ? segments.q_offsets[s + 1] : segments.q_offsets[s] + item.end;
    // A run of small segments may hold a segment of more queries than a block, with next to no keys.
    for (int64_t begin = first; begin < last; begin += job.tiles.q_block) {
      forward_rows(job, begin, static_cast<size_t>(HWY_MIN(last - begin, job.tiles.q_block)),
                   segments.kv_index + segments.kv_offsets[s],
                   static_cast<size_t>(segments.kv_offsets[s + 1] - segments.kv_offsets[s]), head, scratch);
    }
  }
}

}  // namespace moga::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
