// Random attention over groups, in float32 for the kernels and in double for their scalar twin.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/cpu/grouped_attention_cpu.h"
#include "kernels/ref/grouped_attention_ref.h"

namespace moga::cpu::test {

enum class Layout { kTokenMajor, kHeadMajor, kPadded };

struct CaseShape {
  int64_t q_tokens = 0, kv_tokens = 0, heads = 0, dim = 0;
  Storage storage = Storage::kFloat32;
  Layout layout = Layout::kTokenMajor;
};

// Values as they lie in memory, and the same in double.
struct Array {
  std::vector<float> wide;
  std::vector<uint16_t> half;
  std::vector<double> exact;  // [tokens][heads][dim]
  MutableRows rows;

  void allocate(int64_t tokens, const CaseShape& shape) {
    rows.storage = shape.storage;
    rows.tokens = tokens;
    rows.heads = shape.heads;
    rows.dim = shape.dim;
    const int64_t gap = shape.layout == Layout::kPadded ? 3 : 0;
    if (shape.layout == Layout::kHeadMajor) {
      rows.token_stride = shape.dim;
      rows.head_stride = shape.dim * tokens;
    } else {
      rows.head_stride = shape.dim + gap;
      rows.token_stride = shape.heads * rows.head_stride + gap;
    }
    const auto size = static_cast<size_t>(tokens * shape.heads * (shape.dim + 2 * gap) + gap);
    wide.assign(shape.storage == Storage::kFloat32 ? size : 0, NAN);
    half.assign(shape.storage == Storage::kFloat32 ? 0 : size, 0x7fff);
    exact.assign(static_cast<size_t>(tokens * shape.heads * shape.dim), 0.0);
    rows.data = wide.empty() ? static_cast<const void*>(half.data()) : wide.data();
  }
  template <typename Body>
  void each(const Body& body) {
    size_t i = 0;
    for (int64_t t = 0; t < rows.tokens; ++t) {
      for (int64_t n = 0; n < rows.heads; ++n) {
        for (int64_t d = 0; d < rows.dim; ++d) {
          body(static_cast<size_t>(t * rows.token_stride + n * rows.head_stride + d), i++);
        }
      }
    }
  }
  void fill(std::mt19937& random) {
    std::normal_distribution<float> normal;
    each([&](size_t at, size_t i) { exact[i] = set(at, normal(random)); });
  }
  // Stores the nearest value and returns it.
  double set(size_t at, float value) {
    if (!wide.empty()) {
      return wide[at] = value;
    }
    uint32_t bits = 0;
    std::memcpy(&bits, &value, 4);
    if (rows.storage == Storage::kBfloat16) {
      half[at] = static_cast<uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
    } else {  // normal range is enough for tests: 10 bits of mantissa
      value = std::clamp(value, -60000.0F, 60000.0F);
      const int exponent = value == 0 ? -14 : std::max(-14, std::ilogb(value));
      const auto steps = static_cast<long>(std::lrint(std::ldexp(std::abs(value), 10 - exponent)));
      half[at] =
          static_cast<uint16_t>((value < 0 ? 0x8000U : 0U) +
                                static_cast<unsigned>(steps + (static_cast<long>(exponent + 14) << 10)));
    }
    return get(at);
  }
  double get(size_t at) const {
    if (!wide.empty()) {
      return wide[at];
    }
    if (rows.storage == Storage::kBfloat16) {
      const uint32_t bits = static_cast<uint32_t>(half[at]) << 16;
      float value = 0;
      std::memcpy(&value, &bits, 4);
      return value;
    }
    const int exponent = (half[at] >> 10) & 31;
    const int mantissa = half[at] & 1023;
    const double size = exponent == 31  ? (mantissa != 0 ? NAN : INFINITY)
                        : exponent == 0 ? std::ldexp(mantissa, -24)
                                        : std::ldexp(1024 + mantissa, exponent - 25);
    return (half[at] & 0x8000) != 0 ? -size : size;
  }
  std::vector<double> read() {
    std::vector<double> values(exact.size());
    each([&](size_t at, size_t i) { values[i] = get(at); });
    return values;
  }
};

struct SegmentLists {
  std::vector<int64_t> q_index, q_offsets = {0}, kv_index, kv_offsets = {0};

  void close() {
    q_offsets.push_back(static_cast<int64_t>(q_index.size()));
    kv_offsets.push_back(static_cast<int64_t>(kv_index.size()));
  }
  Segments view() const {
    return {static_cast<int64_t>(q_offsets.size()) - 1, q_index.data(), q_offsets.data(), kv_index.data(),
            kv_offsets.data()};
  }
};

// Each token in one of `groups` segments of its own, in random order.
inline SegmentLists split_tokens(int64_t tokens, int64_t groups, std::mt19937& random) {
  std::vector<std::vector<int64_t>> members(static_cast<size_t>(groups));
  for (int64_t t = 0; t < tokens; ++t) {
    members[random() % static_cast<uint64_t>(groups)].push_back(t);
  }
  SegmentLists lists;
  for (const auto& m : members) {
    lists.q_index.insert(lists.q_index.end(), m.begin(), m.end());
    lists.kv_index.insert(lists.kv_index.end(), m.begin(), m.end());
    lists.close();
  }
  return lists;
}

// Lengths from a list of awkward ones; tokens repeat, are missing, and stand in several segments.
inline SegmentLists wild_segments(int64_t q_tokens, int64_t kv_tokens, std::mt19937& random,
                                  int64_t most_keys = 300) {
  constexpr int64_t kLengths[] = {0, 1, 2, 3, 5, 8, 15, 16, 17, 47, 48, 49, 97, 129, 161};
  SegmentLists lists;
  const auto draw = [&random](std::vector<int64_t>& index, int64_t tokens, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      index.push_back(static_cast<int64_t>(random() % static_cast<uint64_t>(tokens)));
    }
  };
  for (int s = 0; s < 8; ++s) {
    draw(lists.q_index, q_tokens, kLengths[random() % std::size(kLengths)]);
    draw(lists.kv_index, kv_tokens, kLengths[random() % std::size(kLengths)]);
    lists.close();
  }
  draw(lists.q_index, q_tokens, most_keys / 3);
  draw(lists.kv_index, kv_tokens, most_keys);  // 300: more than one block of keys of the backward pass
  lists.close();
  return lists;
}

struct Case {
  CaseShape shape;
  SegmentLists lists;
  Array q, k, v, dout, out;
  std::vector<float> row_scale, lse, slot_out, dq, dk, dv, drow_scale, delta;
  float scale = 0;

  Case(const CaseShape& s, SegmentLists l, unsigned seed)
      : shape(s), lists(std::move(l)), scale(1.0F / std::sqrt(static_cast<float>(s.dim))) {
    std::mt19937 random(seed);
    for (auto [array, tokens] :
         {std::pair{&q, s.q_tokens}, {&k, s.kv_tokens}, {&v, s.kv_tokens}, {&dout, s.q_tokens}}) {
      array->allocate(tokens, s);
      array->fill(random);
    }
    out.allocate(s.q_tokens, s);
    std::normal_distribution<float> normal;
    row_scale.resize(static_cast<size_t>(s.q_tokens));
    for (float& x : row_scale) {
      x = normal(random);
    }
    const size_t slots = lists.q_index.size() * static_cast<size_t>(s.heads);
    lse.assign(slots, NAN);
    delta.assign(slots, NAN);
    slot_out.assign(slots * static_cast<size_t>(s.dim), NAN);
    dq.assign(q.exact.size(), NAN);
    dk.assign(k.exact.size(), NAN);
    dv.assign(v.exact.size(), NAN);
    drow_scale.assign(row_scale.size(), NAN);
  }
  std::shared_ptr<const AttentionPlan> plan() const {
    return plan_attention(lists.view(), {shape.q_tokens, shape.kv_tokens, shape.heads, shape.dim});
  }
  ForwardArguments forward_arguments() {
    ForwardArguments x;
    x.q = q.rows;
    x.k = k.rows;
    x.v = v.rows;
    x.row_scale = row_scale.data();
    x.scale = scale;
    x.out = out.rows;
    x.lse = lse.data();
    x.slot_out = slot_out.data();
    return x;
  }
  BackwardArguments backward_arguments() {
    BackwardArguments x;
    x.q = q.rows;
    x.k = k.rows;
    x.v = v.rows;
    x.row_scale = row_scale.data();
    x.scale = scale;
    x.dout = dout.rows;
    x.lse = lse.data();
    x.slot_out = slot_out.data();
    x.dq = dq.data();
    x.dk = dk.data();
    x.dv = dv.data();
    x.drow_scale = drow_scale.data();
    x.delta = delta.data();
    return x;
  }
  void run() {
    const auto made = plan();
    attention_forward(*made, lists.view(), forward_arguments());
    attention_backward(*made, lists.view(), backward_arguments());
  }

  struct Exact {
    std::vector<double> out, lse, dq, dk, dv, drow_scale;
  };
  Exact exact() const {
    Exact e = {std::vector<double>(q.exact.size()), std::vector<double>(lse.size()),
               std::vector<double>(q.exact.size()), std::vector<double>(k.exact.size()),
               std::vector<double>(v.exact.size()), std::vector<double>(row_scale.size())};
    const auto view = [&](auto& x, int64_t tokens) {
      using T = std::remove_reference_t<decltype(x[0])>;
      return ref::View<T>{
          x.data(), {tokens, shape.heads, shape.dim}, {shape.heads * shape.dim, shape.dim, 1}};
    };
    const std::vector<double> scales(row_scale.begin(), row_scale.end());
    const Segments s = lists.view();
    const ref::Inputs in = {view(q.exact, shape.q_tokens),
                            view(k.exact, shape.kv_tokens),
                            view(v.exact, shape.kv_tokens),
                            {s.count, s.q_index, s.q_offsets, s.kv_index, s.kv_offsets},
                            scales.data(),
                            scale};
    ref::grouped_attention_forward(in, view(e.out, shape.q_tokens), e.lse.data());
    ref::grouped_attention_backward(in, view(dout.exact, shape.q_tokens),
                                    {view(e.dq, shape.q_tokens), view(e.dk, shape.kv_tokens),
                                     view(e.dv, shape.kv_tokens), e.drow_scale.data()});
    return e;
  }
};

// Largest difference over the largest exact value or `floor`, the size of terms that cancel out in it;
// infinite where only one of the two is not finite.
template <typename T>
double error_of(const std::vector<T>& found, const std::vector<double>& expected, double floor = 0.1) {
  double error = 0;
  double largest = floor;
  for (size_t i = 0; i < expected.size(); ++i) {
    const auto x = static_cast<double>(found[i]);
    if (!std::isfinite(expected[i]) || !std::isfinite(x)) {
      if (x != expected[i]) {
        return INFINITY;
      }
      continue;
    }
    error = std::max(error, std::abs(x - expected[i]));
    largest = std::max(largest, std::abs(expected[i]));
  }
  return error / largest;
}

}  // namespace moga::cpu::test
