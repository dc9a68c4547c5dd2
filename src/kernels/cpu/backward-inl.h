// One item of the backward pass: a block of keys of a segment stays in the cache with dK and dV, while all
// queries of the segment pass by, a tile at a time. Five products a tile, one exponential:
//
//   S^T = K Q^T                                            s = q k^T
//   P^T = 2^(S^T - lse)                                    p = exp(s - lse)
//   dP^T = V G^T
//   dS^T = P^T (dP^T - delta)                              delta = sum_j p dp = g . o
//   dV += P^T G,  dK += dS^T Q,  dQ^T = K^T dS^T
//
// with G = factor * row_scale * dout. All but dV and dK have queries in the lanes, as in the forward pass;
// these two have channels there, and broadcast P^T and dS^T as they lie. dQ is added to memory tile by tile,
// in the order of the key blocks, whoever computes them (BackwardOrder): sums have the same bits each time.
#if defined(MOGA_KERNELS_CPU_BACKWARD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MOGA_KERNELS_CPU_BACKWARD_INL_H_
#undef MOGA_KERNELS_CPU_BACKWARD_INL_H_
#else
#define MOGA_KERNELS_CPU_BACKWARD_INL_H_
#endif

#include <limits>

#include "kernels/cpu/attention_items.h"
#include "kernels/cpu/pack-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moga::cpu::HWY_NAMESPACE {

// Where things lie in a thread's scratch memory. row: stride of rows of channels, no multiple of 256 bytes
// more, or the rows of a tile would share few cache sets; for the same reason q_step is the queries of a tile
// and 16.
struct BackwardScratch {
  size_t dim, row, q_step;
  float *k, *v, *dk, *dv;  // [keys][row]
  float* k_blocks;         // [dim / kTileRows][keys][kTileRows]
  size_t k_step;
  float *p, *ds;                           // [keys of a sub-block][q_step]
  float *q, *g;                            // [queries][row]
  float *q_turned, *g_turned, *dq_turned;  // panels of [dim][width]
  float *lse, *delta;                      // [queries]
  float* rows;                             // in transit

  BackwardScratch(const AttentionTiles& tiles, size_t keys, float* at) {
    const auto take = [&at](size_t floats) {
      float* here = at;
      at += floats;
      return here;
    };
    dim = static_cast<size_t>(tiles.dim);
    row = (dim + 15) / 16 * 16 + 16;
    q_step = static_cast<size_t>(tiles.q_tile) + 16;
    const size_t kv = static_cast<size_t>(tiles.kv_block) + kMostTileRows;
    const auto q_tile = static_cast<size_t>(tiles.q_tile);
    const size_t sub = static_cast<size_t>(tiles.kv_sub) + kMostTileRows;
    k = take(kv * row);
    v = take(kv * row);
    dk = take(kv * row);
    dv = take(kv * row);
    k_step = block_step(keys);
    k_blocks = take((kv + 16) * dim);
    p = take(sub * q_step);
    ds = take(sub * q_step);
    q = take(q_tile * row);
    g = take(q_tile * row);
    q_turned = take(q_tile * dim);
    g_turned = take(q_tile * dim);
    dq_turned = take(q_tile * dim);
    lse = take(q_tile);
    delta = take(q_tile);
    rows = at;
  }
};

// p and ds of keys [begin, begin + count) and one panel of kV vectors of queries, which starts at query
// `first`.
template <int kV>
HWY_INLINE void backward_scores(const BackwardScratch& x, size_t begin, size_t count, size_t first) {
  const F d;
  constexpr size_t kWidth = kV * kLanes;
  const float* q = x.q_turned + first * x.dim;
  const float* g = x.g_turned + first * x.dim;
  const auto zero = [&](int, int) HWY_ATTR { return hn::Zero(d); };
  V lse[kV];
  V delta[kV];
#pragma GCC unroll 4
  for (int v = 0; v < kV; ++v) {
    lse[v] = hn::LoadU(d, x.lse + first + v * kLanes);
    delta[v] = hn::LoadU(d, x.delta + first + v * kLanes);
  }
  for (size_t key = 0; key < count; key += kTileRows) {
    float* HWY_RESTRICT p = x.p + key * x.q_step + first;
    multiply_tile<kTileRows, kV, 1>(
        Matrix{x.k + (begin + key) * x.row, x.row}, q, kWidth, x.dim, zero, [&](int m, int v, V s) HWY_ATTR {
          hn::StoreU(exp2_of(hn::Sub(s, lse[v])), d, p + static_cast<size_t>(m) * x.q_step + v * kLanes);
        });
  }
  for (size_t key = 0; key < count; key += kTileRows) {
    const float* HWY_RESTRICT p = x.p + key * x.q_step + first;
    float* HWY_RESTRICT ds = x.ds + key * x.q_step + first;
    multiply_tile<kTileRows, kV, 1>(
        Matrix{x.v + (begin + key) * x.row, x.row}, g, kWidth, x.dim, zero, [&](int m, int v, V dp) HWY_ATTR {
          const size_t at = static_cast<size_t>(m) * x.q_step + v * kLanes;
          hn::StoreU(hn::Mul(hn::LoadU(d, p + at), hn::Sub(dp, delta[v])), d, ds + at);
        });
  }
}

// dq of one panel: += K^T dS^T over keys [begin, begin + count).
template <int kV>
HWY_INLINE void backward_queries(const BackwardScratch& x, size_t begin, size_t count, size_t first) {
  const F d;
  constexpr size_t kWidth = kV * kLanes;
  for (size_t i = 0; i < x.dim; i += kTileRows) {
    float* HWY_RESTRICT to = x.dq_turned + first * x.dim + i * kWidth;
    multiply_tile<kTileRows, kV, kTileRows>(
        Matrix{x.k_blocks + i / kTileRows * x.k_step + begin * kTileRows, 1}, x.ds + first, x.q_step, count,
        [&](int m, int v)
            HWY_ATTR { return hn::LoadU(d, to + static_cast<size_t>(m) * kWidth + v * kLanes); },
        [&](int m, int v, V sum)
            HWY_ATTR { hn::StoreU(sum, d, to + static_cast<size_t>(m) * kWidth + v * kLanes); });
  }
}

// into[key][channels] += sum over queries of weight[key][query] * rows[query][channels], kV vectors of
// channels.
template <int kV>
HWY_INLINE void add_products(const float* weight, size_t weight_step, const float* rows, size_t row,
                             size_t queries, size_t keys, float* into) {
  const F d;
  for (size_t key = 0; key < keys; key += kTileRows) {
    float* HWY_RESTRICT to = into + key * row;
    for (int m = 0; m < kTileRows; ++m) {  // of the next tile
      prefetch<1, 3>(to + static_cast<size_t>(kTileRows + m) * row, kV * kLanes * sizeof(float));
    }
    multiply_tile<kTileRows, kV, 1>(
        Matrix{weight + key * weight_step, weight_step}, rows, row, queries,
        [&](int m, int v) HWY_ATTR { return hn::LoadU(d, to + static_cast<size_t>(m) * row + v * kLanes); },
        [&](int m, int v, V sum)
            HWY_ATTR { hn::StoreU(sum, d, to + static_cast<size_t>(m) * row + v * kLanes); });
  }
}

// The same over all channels, in register tiles of three vectors and of two, but never of one that could be
// spared.
HWY_INLINE void add_all_products(const float* weight, size_t weight_step, const float* rows, size_t row,
                                 size_t dim, size_t queries, size_t keys, float* into) {
  size_t at = 0;
  size_t left = (dim + kLanes - 1) / kLanes;
  while (left > 0) {
    const size_t take = left == 4 ? 2 : HWY_MIN(left, size_t{3});
    switch (take) {
      case 1:
        add_products<1>(weight, weight_step, rows + at, row, queries, keys, into + at);
        break;
      case 2:
        add_products<2>(weight, weight_step, rows + at, row, queries, keys, into + at);
        break;
      default:
        add_products<3>(weight, weight_step, rows + at, row, queries, keys, into + at);
    }
    at += take * kLanes;
    left -= take;
  }
}

// Rows [count][row] turned into panels, and the statistics of their slots.
HWY_INLINE void pack_queries(const BackwardJob& job, const BackwardScratch& at, int64_t first_slot,
                             size_t count, int64_t head) {
  const BackwardArguments& x = *job.arguments;
  const int64_t* slots = job.segments->q_index + first_slot;
  const size_t padded = (count + kLanes - 1) / kLanes * kLanes;
  for (size_t q = 0; q < padded; ++q) {
    float* q_row = at.q + q * at.row;
    float* g_row = at.g + q * at.row;
    if (q >= count) {  // with an infinite lse its p is 0
      std::memset(q_row, 0, at.row * sizeof(float));
      std::memset(g_row, 0, at.row * sizeof(float));
      at.lse[q] = std::numeric_limits<float>::infinity();
      at.delta[q] = 0.0F;
      continue;
    }
    if (q + kLanes < count) {
      prefetch<0, 3>(x.q.row(slots[q + kLanes], head), row_bytes(x.q));
      prefetch<0, 3>(x.dout.row(slots[q + kLanes], head), row_bytes(x.dout));
    }
    const int64_t token = slots[q];
    const int64_t slot = (first_slot + static_cast<int64_t>(q)) * x.q.heads + head;
    const float factor = x.row_scale != nullptr ? x.factor * x.row_scale[token] : x.factor;
    fetch_row(x.q, token, head, q_row, at.row);
    scale_row(q_row, x.scale * kLog2E, at.row);
    fetch_row(x.dout, token, head, g_row, at.row);
    scale_row(g_row, factor, at.row);
    at.lse[q] = x.lse[slot] * kLog2E;
    at.delta[q] = x.delta[slot] * factor;
  }
  for (size_t panel = 0; panel < padded; panel += kPanel) {
    const size_t width = HWY_MIN(kPanel, padded - panel);
    for (size_t q = panel; q < panel + width; q += kLanes) {
      const float* q_rows[kLanes];
      const float* g_rows[kLanes];
      for (size_t r = 0; r < kLanes; ++r) {
        q_rows[r] = at.q + (q + r) * at.row;
        g_rows[r] = at.g + (q + r) * at.row;
      }
      const size_t to = panel * at.dim + q - panel;
      turn_rows(q_rows, 1.0F, at.dim, at.q_turned + to, width);
      turn_rows(g_rows, 1.0F, at.dim, at.g_turned + to, width);
    }
  }
  std::memset(at.dq_turned, 0, padded * at.dim * sizeof(float));
}

HWY_INLINE void commit_queries(const BackwardJob& job, const BackwardScratch& at, int64_t first_slot,
                               size_t count, int64_t head) {
  const BackwardArguments& x = *job.arguments;
  const int64_t* slots = job.segments->q_index + first_slot;
  const size_t padded = (count + kLanes - 1) / kLanes * kLanes;
  const auto true_dim = static_cast<size_t>(x.q.dim);
  const auto to = [&](size_t q) HWY_ATTR { return x.dq + (slots[q] * x.q.heads + head) * x.q.dim; };
  for (size_t q = 0; q < count; q += kLanes) {
    for (size_t r = q + kLanes; r < HWY_MIN(q + 2 * kLanes, count); ++r) {
      prefetch<1, 3>(to(r), true_dim * sizeof(float));
    }
    const size_t panel = q / kPanel * kPanel;
    const size_t width = HWY_MIN(kPanel, padded - panel);
    turn_back(at.dq_turned + panel * at.dim + q - panel, width, hn::Set(F(), x.scale), at.dim, at.rows);
    for (size_t r = 0; r < HWY_MIN(kLanes, count - q); ++r) {
      write_row(at.rows + r * at.dim, 1.0F, /*add=*/true, Storage::kFloat32, true_dim, to(q + r));
    }
  }
}

// Keys `kv_index` (keys of them) and all queries of segment s.
HWY_INLINE void backward_keys(const BackwardJob& job, int64_t s, const int64_t* kv_index, size_t keys,
                              int64_t head, const BackwardOrder& order, float* scratch) {
  const BackwardArguments& x = *job.arguments;
  const BackwardScratch at(job.tiles, keys, scratch);
  pack_rows(x.k, kv_index, keys, head, at.k, at.row);
  pack_rows(x.v, kv_index, keys, head, at.v, at.row);
  for (size_t j = 0; j < keys; j += kRowsCut) {
    const float* rows[kRowsCut];
    for (size_t r = 0; r < kRowsCut; ++r) {
      rows[r] = at.k + (j + r) * at.row;
    }
    cut_blocks(rows, at.dim, at.k_blocks + j * kTileRows, at.k_step);
  }
  const size_t padded_keys = (keys + kTileRows - 1) / kTileRows * kTileRows;
  std::memset(at.dk, 0, padded_keys * at.row * sizeof(float));
  std::memset(at.dv, 0, padded_keys * at.row * sizeof(float));

  const int64_t q_begin = job.segments->q_offsets[s];
  const int64_t q_end = job.segments->q_offsets[s + 1];
  const auto q_tile = static_cast<size_t>(job.tiles.q_tile);
  const auto kv_sub = static_cast<size_t>(job.tiles.kv_sub);
  int64_t tiles_done = 0;
  for (int64_t slot = q_begin; slot < q_end; slot += job.tiles.q_tile) {
    const size_t queries = HWY_MIN(q_tile, static_cast<size_t>(q_end - slot));
    const size_t padded = (queries + kLanes - 1) / kLanes * kLanes;
    pack_queries(job, at, slot, queries, head);
    for (size_t begin = 0; begin < keys; begin += kv_sub) {
      const size_t count = HWY_MIN(kv_sub, keys - begin);
      for (size_t panel = 0; panel < padded; panel += kPanel) {
        switch (HWY_MIN(kPanel, padded - panel) / kLanes) {
          case 1:
            backward_scores<1>(at, begin, count, panel);
            backward_queries<1>(at, begin, count, panel);
            break;
          case 2:
            backward_scores<2>(at, begin, count, panel);
            backward_queries<2>(at, begin, count, panel);
            break;
          default:
            backward_scores<3>(at, begin, count, panel);
            backward_queries<3>(at, begin, count, panel);
        }
      }
      add_all_products(at.p, at.q_step, at.g, at.row, at.dim, queries, count, at.dv + begin * at.row);
      add_all_products(at.ds, at.q_step, at.q, at.row, at.dim, queries, count, at.dk + begin * at.row);
    }
    if (order.tile_by_tile) {
      wait_for_progress(*order.previous, tiles_done + 1);
    } else if (order.after_queries) {
      wait_for_progress(*order.previous, kUnitDone);
    }
    commit_queries(job, at, slot, queries, head);
    ++tiles_done;
    report_progress(*order.mine, tiles_done);
  }
  if (order.after_keys) {
    wait_for_progress(*order.previous, kUnitDone);
  }
  for (size_t j = 0; j < keys; ++j) {
    const int64_t to = (kv_index[j] * x.k.heads + head) * x.k.dim;
    // q came with scale * log2(e).
    const auto add = [&](const float* row, float factor, float* into) HWY_ATTR {
      write_row(row, factor, /*add=*/true, Storage::kFloat32, static_cast<size_t>(x.k.dim), into + to);
    };
    add(at.dk + j * at.row, kLn2, x.dk);
    add(at.dv + j * at.row, 1.0F, x.dv);
  }
}

void backward_item(const BackwardJob& job, const AttentionItem& item, const BackwardOrder& order,
                   int64_t head, float* scratch) {
  const Segments& segments = *job.segments;
  for (int64_t s = item.segment_begin; s < item.segment_end; ++s) {
    const bool whole = item.segment_end - item.segment_begin > 1;
    const int64_t first = segments.kv_offsets[s] + (whole ? 0 : item.begin);
    const int64_t last = whole ? segments.kv_offsets[s + 1] : segments.kv_offsets[s] + item.end;
    for (int64_t begin = first; begin < last; begin += job.tiles.kv_block) {
      backward_keys(job, s, segments.kv_index + begin,
                    static_cast<size_t>(HWY_MIN(last - begin, job.tiles.kv_block)), head, order, scratch);
    }
  }
}

float dot_row(const Rows& x, int64_t token, int64_t head, const float* other) {
  const F d;
  HWY_ALIGN float row[kMaxHeadSize + kLanes];
  const auto dim = static_cast<size_t>(x.dim);
  load_row(x.row(token, head), x.storage, dim, row);
  V sum = hn::Zero(d);
  size_t i = 0;
  for (; i + kLanes <= dim; i += kLanes) {
    sum = hn::MulAdd(hn::Load(d, row + i), hn::LoadU(d, other + i), sum);
  }
  float all = hn::GetLane(hn::SumOfLanes(d, sum));
  for (; i < dim; ++i) {
    all += row[i] * other[i];
  }
  return all;
}

}  // namespace moga::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
