// Fetching rows by index into the tiles that the kernels read.
#if defined(MOGA_KERNELS_CPU_PACK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MOGA_KERNELS_CPU_PACK_INL_H_
#undef MOGA_KERNELS_CPU_PACK_INL_H_
#else
#define MOGA_KERNELS_CPU_PACK_INL_H_
#endif

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
// the row this many after the one at hand.
constexpr size_t kRowsAhead = 8;

// kWrite: 1 if it is going to be written. kLocality: 3 to the first-level cache, 2 to the second.
template <int kWrite, int kLocality>
HWY_INLINE void prefetch(const void* from, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) {
    __builtin_prefetch(static_cast<const char*>(from) + i, kWrite, kLocality);
  }
}

HWY_INLINE size_t row_bytes(const Rows& x) {
  return static_cast<size_t>(x.dim) * bytes_of(x.storage);
}

HWY_INLINE void scale_row(float* HWY_RESTRICT row, float factor, size_t count) {
  const hn::FixedTag<float, 4> d;  // rows are multiples of 8 long, maybe not of a vector
  const auto f = hn::Set(d, factor);
  for (size_t i = 0; i < count; i += 4) {
    hn::StoreU(hn::Mul(hn::LoadU(d, row + i), f), d, row + i);
  }
}

// to [count][stride], and zeros below up to a multiple of kTileRows.
HWY_INLINE void pack_rows(const Rows& x, const int64_t* index, size_t count, int64_t head,
                          float* HWY_RESTRICT to, size_t stride) {
  for (size_t j = 0; j < count; ++j) {
    fetch_row(x, index[j], head, to + j * stride, stride);
  }
  for (size_t j = count; j % kTileRows != 0; ++j) {
    std::memset(to + j * stride, 0, stride * sizeof(float));
  }
}

// to[i / kTileRows * step + j * kTileRows + i % kTileRows] = rows[j * stride + i] for j < count, i < dim.
HWY_INLINE void cut_blocks(const float* HWY_RESTRICT rows, size_t stride, size_t count, size_t dim,
                           float* HWY_RESTRICT to, size_t step) {
  const hn::FixedTag<float, 4> d;
  for (size_t i = 0; i < dim; i += kTileRows) {
    float* HWY_RESTRICT block = to + i / kTileRows * step;
    for (size_t j = 0; j < count; ++j) {
#pragma GCC unroll 2
      for (size_t r = 0; r < kTileRows; r += 4) {
        hn::StoreU(hn::LoadU(d, rows + j * stride + i + r), d, block + j * kTileRows + r);
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

// The rows as cut_blocks has them, four at a time through `rows`, so that whole cache lines are written.
HWY_INLINE void pack_blocks(const Rows& x, const int64_t* index, size_t count, int64_t head,
                            float* HWY_RESTRICT rows, size_t dim, float* HWY_RESTRICT to, size_t step) {
  for (size_t j = 0; j < count; j += 4) {
    const size_t few = HWY_MIN(size_t{4}, count - j);
    for (size_t r = 0; r < few; ++r) {
      fetch_row(x, index[j + r], head, rows + r * dim, dim);
    }
    cut_blocks(rows, dim, few, dim, to + j * kTileRows, step);
  }
}

// to [dim][width] = rows turned; columns from `count` to `width` are zeros. rows: room for 4 rows of dim.
HWY_INLINE void pack_turned(const Rows& x, const int64_t* index, size_t count, int64_t head, float factor,
                            float* HWY_RESTRICT rows, size_t dim, float* HWY_RESTRICT to, size_t width) {
  for (size_t q = 0; q < width; q += 4) {
    for (size_t r = 0; r < 4; ++r) {
      float* HWY_RESTRICT row = rows + r * dim;
      if (q + r + kRowsAhead < count) {
        prefetch<0, 3>(x.row(index[q + r + kRowsAhead], head), row_bytes(x));
      }
      if (q + r < count) {
        fetch_row(x, index[q + r], head, row, dim);
        scale_row(row, factor, dim);
      } else {
        std::memset(row, 0, dim * sizeof(float));
      }
    }
    for (size_t i = 0; i < dim; i += 4) {
      transpose_4x4(rows + i, dim, to + i * width + q, width);
    }
  }
}

}  // namespace moga::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
