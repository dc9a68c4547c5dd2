// Fetching rows by index into the tiles that the kernels read.
#if defined(MOGA_KERNELS_CPU_PACK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MOGA_KERNELS_CPU_PACK_INL_H_
#undef MOGA_KERNELS_CPU_PACK_INL_H_
#else
#define MOGA_KERNELS_CPU_PACK_INL_H_
#endif

#include "kernels/cpu/grouped_attention_cpu.h"
#include "kernels/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moga::cpu::HWY_NAMESPACE {

// One row, padded with zeros to `stride`.
HWY_INLINE void fetch_row(const Rows& x, int64_t token, int64_t head, float* HWY_RESTRICT to, size_t stride) {
  const auto dim = static_cast<size_t>(x.dim);
  load_row(x.row(token, head), x.storage, dim, to);
  for (size_t i = dim; i < stride; ++i) {
    to[i] = 0.0F;
  }
}

// Rows found by index stand far apart, so that no hardware foresees them: who reads or writes them asks for
// them ahead. kWrite: 1 if it is going to be written. kLocality: 3 to the first-level cache, 2 to the second.
template <int kWrite, int kLocality>
HWY_INLINE void prefetch(const void* from, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) {
    __builtin_prefetch(static_cast<const char*>(from) + i, kWrite, kLocality);
  }
}

HWY_INLINE size_t row_bytes(const Rows& x) {
  return static_cast<size_t>(x.dim) * bytes_of(x.storage);
}

// count: a multiple of 16.
HWY_INLINE void scale_row(float* HWY_RESTRICT row, float factor, size_t count) {
  const F d;
  const V f = hn::Set(d, factor);
  for (size_t i = 0; i < count; i += kLanes) {
    hn::StoreU(hn::Mul(hn::LoadU(d, row + i), f), d, row + i);
  }
}

// The row where it lies if that is `dim` floats, or else a copy in `to`.
HWY_INLINE const float* find_row(const Rows& x, int64_t token, int64_t head, float* HWY_RESTRICT to,
                                 size_t dim) {
  if (x.storage == Storage::kFloat32 && static_cast<size_t>(x.dim) == dim) {
    return static_cast<const float*>(x.row(token, head));
  }
  fetch_row(x, token, head, to, dim);
  return to;
}

// to [count][stride], and the last row again up to a multiple of kTileRows.
HWY_INLINE void pack_rows(const Rows& x, const int64_t* index, size_t count, int64_t head,
                          float* HWY_RESTRICT to, size_t stride) {
  for (size_t j = 0; j < count; ++j) {
    fetch_row(x, index[j], head, to + j * stride, stride);
  }
  for (size_t j = count; j % kTileRows != 0; ++j) {
    std::memcpy(to + j * stride, to + (j - 1) * stride, stride * sizeof(float));
  }
}

// Channels lie in blocks of kTileRows, [dim / kTileRows][rows][kTileRows], blocks `step` apart. Four rows are
// cut at a time, so that whole cache lines are written.
constexpr size_t kRowsCut = 4;
HWY_INLINE size_t block_step(size_t rows) {
  return (rows + kRowsCut - 1) / kRowsCut * kRowsCut * kTileRows + 16;  // or blocks would share cache sets
}
HWY_INLINE void cut_blocks(const float* const* rows, size_t dim, float* HWY_RESTRICT to, size_t step) {
  const hn::CappedTag<float, kTileRows> d;
  for (size_t i = 0; i < dim; i += kTileRows, to += step) {
#pragma GCC unroll 4
    for (size_t r = 0; r < kRowsCut; ++r) {
#pragma GCC unroll 2
      for (size_t at = 0; at < kTileRows; at += hn::MaxLanes(d)) {
        hn::StoreU(hn::LoadU(d, rows[r] + i + at), d, to + r * kTileRows + at);
      }
    }
  }
}

// Asks the memory for the rows of the next tile while the present one is worked on: rows found by index stand
// far apart, so that no hardware foresees them, and waiting for each took a sixth of the time of a forward
// pass.
class RowsAhead {
 public:
  RowsAhead(const Rows& a, const Rows& b, const int64_t* index, size_t count, int64_t head, size_t steps)
      : a_(a),
        b_(b),
        index_(index),
        count_(count),
        head_(head),
        each_(count / HWY_MAX(steps, size_t{1}) + 1),
        wait_(steps - HWY_MIN(steps, (count + each_ - 1) / each_)) {}

  // To be called `steps` times.
  HWY_INLINE void step() {
    if (wait_ > 0) {
      --wait_;
      return;
    }
    const size_t end = HWY_MIN(count_, next_ + each_);
    for (; next_ < end; ++next_) {
      prefetch<0, 2>(a_.row(index_[next_], head_), row_bytes(a_));
      prefetch<0, 2>(b_.row(index_[next_], head_), row_bytes(b_));
    }
  }

 private:
  const Rows& a_;
  const Rows& b_;
  const int64_t* index_;
  size_t count_;
  int64_t head_;
  size_t each_;
  size_t wait_;  // steps: rows asked for too early are forgotten again
  size_t next_ = 0;
};

// The rows in blocks. rows: room for kRowsCut rows of dim.
HWY_INLINE void pack_blocks(const Rows& x, const int64_t* index, size_t count, int64_t head,
                            float* HWY_RESTRICT rows, size_t dim, float* HWY_RESTRICT to, size_t step) {
  for (size_t j = 0; j < count; j += kRowsCut) {
    const float* from[kRowsCut];
    for (size_t r = 0; r < kRowsCut; ++r) {
      from[r] = find_row(x, index[HWY_MIN(j + r, count - 1)], head, rows + r * dim, dim);
    }
    cut_blocks(from, dim, to + j * kTileRows, step);
  }
}

// to[i * width + r] = factor * channel i of row r, for kLanes rows; those from `count` on are zeros. As many
// rows after them are asked for ahead. rows: room for kLanes rows of dim.
HWY_INLINE void pack_turned(const Rows& x, const int64_t* index, size_t count, int64_t head, float factor,
                            float* HWY_RESTRICT rows, size_t dim, float* HWY_RESTRICT to, size_t width) {
  HWY_ALIGN static constexpr float kZeros[kMaxHeadSize] = {};
  const float* from[kLanes];
  for (size_t r = 0; r < kLanes; ++r) {
    if (kLanes + r < count) {
      prefetch<0, 3>(x.row(index[kLanes + r], head), row_bytes(x));
    }
    from[r] = r < count ? find_row(x, index[r], head, rows + r * dim, dim) : kZeros;
  }
  turn_rows(from, factor, dim, to, width);
}

// to = factor * row, added to what stands there if `add`.
HWY_INLINE void write_row(const float* HWY_RESTRICT row, float factor, bool add, Storage storage, size_t dim,
                          void* to) {
  HWY_ALIGN float copy[kMaxHeadSize + kLanes];
  float* HWY_RESTRICT out = storage == Storage::kFloat32 ? static_cast<float*>(to) : copy;
  if (add && out == copy) {
    load_row(to, storage, dim, copy);
  }
  const F d;
  const V f = hn::Set(d, factor);
  size_t i = 0;
  for (; i + kLanes <= dim; i += kLanes) {
    const V x = hn::Mul(hn::LoadU(d, row + i), f);
    hn::StoreU(add ? hn::Add(x, hn::LoadU(d, out + i)) : x, d, out + i);
  }
  for (; i < dim; ++i) {
    out[i] = add ? out[i] + row[i] * factor : row[i] * factor;
  }
  if (out == copy) {
    store_row(copy, storage, dim, to);
  }
}

}  // namespace moga::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
