#include "attention/grouped_attention.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <random>

#include "attention/test_util.h"
#include "base/error.h"
#include "kernels/ref/grouped_attention_ref.h"

namespace moga {
namespace {

using test::Leaves;
using test::random_groups;
using torch::Tensor;

ref::View<const double> view_of(const Tensor& x) {
  return {x.data_ptr<double>(), {x.size(0), x.size(1), x.size(2)}, {x.stride(0), x.stride(1), x.stride(2)}};
}
ref::View<double> mutable_view_of(const Tensor& x) {
  return {x.data_ptr<double>(), {x.size(0), x.size(1), x.size(2)}, {x.stride(0), x.stride(1), x.stride(2)}};
}

ref::Inputs ref_inputs(const Leaves& x, const Groups& groups, double scale) {
  return {view_of(x.q),
          view_of(x.k),
          view_of(x.v),
          {groups.segments(), groups.q_index.data_ptr<int64_t>(), groups.q_offsets.data_ptr<int64_t>(),
           groups.kv_index.data_ptr<int64_t>(), groups.kv_offsets.data_ptr<int64_t>()},
          x.row_scale.data_ptr<double>(),
          scale};
}

// [L, K] multiplicity of each pair, by mask matrices: independent of everything else here.
Tensor dense_attention(const Leaves& x, const Groups& groups, double scale) {
  Tensor out = torch::zeros_like(x.q);
  for (int64_t s = 0; s < groups.segments(); ++s) {
    const auto part = [s](const Tensor& index, const Tensor& offsets) {
      return index.slice(0, offsets[s].item<int64_t>(), offsets[s + 1].item<int64_t>());
    };
    const Tensor qi = part(groups.q_index, groups.q_offsets);
    const Tensor ki = part(groups.kv_index, groups.kv_offsets);
    if (qi.numel() == 0 || ki.numel() == 0) {
      continue;
    }
    const Tensor count_Q = torch::bincount(qi, {}, x.q.size(0)).to(x.q.scalar_type());
    // A key named twice weighs twice: log of its count is added to the score.
    const Tensor count_K = torch::bincount(ki, {}, x.k.size(0)).to(x.q.scalar_type());
    const Tensor scores = torch::einsum("lnd,knd->nlk", {x.q, x.k}) * scale + count_K.log();
    out = out + torch::einsum("nlk,knd->lnd", {torch::softmax(scores, -1), x.v}) * count_Q.view({-1, 1, 1});
  }
  return out * x.row_scale.view({-1, 1, 1});
}

TEST(GroupedAttention, AgreesWithDenseAttentionAndTheOracleOnRandomGroupings) {
  for (int seed = 0; seed < 30; ++seed) {
    const int64_t tokens = 1 + seed % 17;
    const int64_t keys = 1 + (seed * 5) % 23;
    Leaves x(tokens, keys, 1 + seed % 3, 1 + seed % 5, seed);
    const Groups groups = random_groups(tokens, keys, seed);
    const double scale = 0.6;
    const auto result = grouped_attention(x.q, x.k, x.v, groups, x.row_scale, scale);
    const Tensor dense = dense_attention(x, groups, scale);
    EXPECT_TRUE(torch::allclose(result.out_LND, dense, 1e-10, 1e-12)) << "seed " << seed;

    const Leaves host = x.on(torch::kCPU);  // where the oracle reads
    const Groups host_groups = test::on_device(groups, torch::kCPU);
    const Tensor lse_found = result.lse_QN.cpu();
    Tensor out = torch::empty_like(host.q), lse = torch::empty_like(lse_found);
    ref::grouped_attention_forward(ref_inputs(host, host_groups, scale), mutable_view_of(out),
                                   lse.data_ptr<double>());
    EXPECT_TRUE(torch::allclose(result.out_LND.cpu(), out, 1e-10, 1e-12)) << "seed " << seed;
    EXPECT_TRUE(torch::equal(torch::isinf(lse), torch::isinf(lse_found))) << "seed " << seed;
    EXPECT_TRUE(torch::allclose(lse_found, lse, 1e-10, 1e-12)) << "seed " << seed;

    const Tensor dout = torch::randn_like(out);
    result.out_LND.backward(dout.to(test_device()));
    Tensor dq = torch::empty_like(host.q), dk = torch::empty_like(host.k), dv = torch::empty_like(host.v);
    Tensor drow = torch::empty_like(host.row_scale);
    ref::grouped_attention_backward(
        ref_inputs(host, host_groups, scale), view_of(dout),
        {mutable_view_of(dq), mutable_view_of(dk), mutable_view_of(dv), drow.data_ptr<double>()});
    EXPECT_TRUE(torch::allclose(x.q.grad().cpu(), dq, 1e-9, 1e-11)) << "seed " << seed;
    EXPECT_TRUE(torch::allclose(x.k.grad().cpu(), dk, 1e-9, 1e-11)) << "seed " << seed;
    EXPECT_TRUE(torch::allclose(x.v.grad().cpu(), dv, 1e-9, 1e-11)) << "seed " << seed;
    EXPECT_TRUE(torch::allclose(x.row_scale.grad().cpu(), drow, 1e-9, 1e-11)) << "seed " << seed;
  }
}

TEST(GroupedAttention, GradientsAgreeWithFiniteDifferences) {
  Leaves x(7, 6, 2, 3, 11);
  const Groups groups = random_groups(7, 6, 11);
  const Tensor dout = torch::randn_like(x.q);
  const auto loss = [&] {
    return (grouped_attention(x.q, x.k, x.v, groups, x.row_scale).out_LND * dout).sum();
  };
  test::expect_gradients(loss, {x.q, x.k, x.v, x.row_scale});
}

TEST(GroupedAttention, LongSegmentsInChunksEqualOneProduct) {
  // 700 queries x 900 keys exceed the score limit of one batch on a CPU, so this runs in chunks.
  Leaves x(700, 900, 2, 8, 3);
  GroupIndex index;
  for (int64_t i = 0; i < 700; ++i) index.q_index.push_back(i);
  for (int64_t i = 0; i < 900; ++i) index.kv_index.push_back(i);
  index.q_offsets.push_back(700);
  index.kv_offsets.push_back(900);
  const Tensor dout = torch::randn_like(x.q);
  const Tensor out = grouped_attention(x.q, x.k, x.v, to_groups(index, test_device()), x.row_scale).out_LND;
  out.backward(dout);
  Leaves y(700, 900, 2, 8, 3);
  const Tensor scores = torch::einsum("lnd,knd->nlk", {y.q, y.k}) / std::sqrt(8.0);
  const Tensor expected =
      torch::einsum("nlk,knd->lnd", {torch::softmax(scores, -1), y.v}) * y.row_scale.view({-1, 1, 1});
  expected.backward(dout);
  EXPECT_TRUE(torch::allclose(out, expected, 1e-10, 1e-12));
  EXPECT_TRUE(torch::allclose(x.q.grad(), y.q.grad(), 1e-9, 1e-11));
  EXPECT_TRUE(torch::allclose(x.k.grad(), y.k.grad(), 1e-9, 1e-11));
  EXPECT_TRUE(torch::allclose(x.v.grad(), y.v.grad(), 1e-9, 1e-11));
  EXPECT_TRUE(torch::allclose(x.row_scale.grad(), y.row_scale.grad(), 1e-9, 1e-11));
}

TEST(GroupedAttention, StridedInputsAndUnusedGradients) {
  const Groups groups = random_groups(9, 9, 5);
  torch::manual_seed(5);
  const Tensor qkv =  // L, N, (q k v), D
      torch::randn({9, 2, 3, 4}, torch::kFloat64).to(test_device()).requires_grad_(true);
  const Tensor q = qkv.select(2, 0), k = qkv.select(2, 1), v = qkv.select(2, 2);
  const Tensor strided = grouped_attention(q, k, v, groups).out_LND;
  EXPECT_TRUE(torch::allclose(
      strided, grouped_attention(q.contiguous(), k.contiguous(), v.contiguous(), groups).out_LND));
  strided.sum().backward();
  EXPECT_TRUE(qkv.grad().select(2, 2).abs().sum().item<double>() > 0);
  // Only v wants a gradient here.
  const Tensor v2 = v.detach().clone().requires_grad_(true);
  grouped_attention(q.detach(), k.detach(), v2, groups).out_LND.sum().backward();
  EXPECT_TRUE(torch::allclose(v2.grad(), qkv.grad().select(2, 2)));
}

TEST(GroupedAttention, SingleAndHalfPrecisionStayNearDouble) {
  Leaves x(64, 64, 2, 16, 9);
  const Groups groups = to_groups(full_groups(64), test_device());
  const Tensor dout = torch::randn_like(x.q);
  grouped_attention(x.q, x.k, x.v, groups, x.row_scale).out_LND.backward(dout);
  const Tensor exact = grouped_attention(x.q, x.k, x.v, groups, x.row_scale).out_LND.detach();
  // float32: a few roundings; half: inputs and output are rounded once each (unit 2^-8 and 2^-11).
  for (const auto& [type, tolerance] :
       {std::pair{torch::kFloat32, 2e-6}, {torch::kBFloat16, 3e-2}, {torch::kFloat16, 4e-3}}) {
    Leaves y = x.as(type);
    const auto low = grouped_attention(y.q, y.k, y.v, groups, y.row_scale);
    EXPECT_EQ(low.out_LND.scalar_type(), type);
    const double error = (low.out_LND.to(torch::kFloat64) - exact).abs().max().item<double>();
    EXPECT_LT(error, tolerance * exact.abs().max().item<double>());
    low.out_LND.backward(dout.to(type));
    for (const auto& [mine, theirs] :
         {std::pair{y.q, x.q}, {y.k, x.k}, {y.v, x.v}, {y.row_scale, x.row_scale}}) {
      const double grad_error = (mine.grad().to(torch::kFloat64) - theirs.grad()).abs().max().item<double>();
      EXPECT_LT(grad_error, 4 * tolerance * theirs.grad().abs().max().item<double>());
      EXPECT_EQ(mine.grad().scalar_type(), mine.scalar_type());
    }
  }
}

TEST(GroupedAttention, CpuKernelsAgreeWithTheBatchedPath) {
  // float32 goes through the kernels of kernels/cpu; the batched path computes the same from libtorch's
  // products.
  for (int seed = 0; seed < 12; ++seed) {
    const int64_t tokens = 3 + 17 * seed % 50;
    const int64_t keys = 3 + 29 * seed % 60;
    Leaves x = Leaves(tokens, keys, 1 + seed % 3, 8 + 4 * (seed % 4), seed).as(torch::kFloat32);
    Leaves y = x.as(torch::kFloat32);
    const Groups groups = random_groups(tokens, keys, seed);
    const auto mine = grouped_attention(x.q, x.k, x.v, groups, x.row_scale);
    const auto theirs = batched_attention(y.q, y.k, y.v, groups, y.row_scale);
    EXPECT_TRUE(torch::allclose(mine.out_LND, theirs.out_LND, 1e-4, 1e-5)) << "seed " << seed;
    EXPECT_TRUE(torch::allclose(mine.lse_QN, theirs.lse_QN, 1e-4, 1e-5)) << "seed " << seed;
    const Tensor dout = torch::randn_like(mine.out_LND);
    mine.out_LND.backward(dout);
    theirs.out_LND.backward(dout);
    for (const auto& [a, b] : {std::pair{x.q, y.q}, {x.k, y.k}, {x.v, y.v}, {x.row_scale, y.row_scale}}) {
      EXPECT_TRUE(torch::allclose(a.grad(), b.grad(), 1e-4, 1e-4)) << "seed " << seed;
    }
  }
}

TEST(GroupedAttention, SumsOfPartsEqualThePartsSummed) {
  Leaves x = Leaves(40, 40, 2, 16, 3).as(torch::kFloat32);
  Leaves y = x.as(torch::kFloat32);
  const Groups first = groups_from_ids(torch::randint(0, 3, {40}, torch::kInt64).to(test_device()), 3);
  const Groups second = random_groups(40, 40, 9);
  const Tensor sum = summed_attention(x.q, x.k, x.v, {{&first, x.row_scale, 0.25}, {&second, {}, 0.5}});
  const Tensor expected = 0.25 * batched_attention(y.q, y.k, y.v, first, y.row_scale).out_LND +
                          0.5 * batched_attention(y.q, y.k, y.v, second).out_LND;
  EXPECT_TRUE(torch::allclose(sum, expected, 1e-4, 1e-5));
  const Tensor dout = torch::randn_like(sum);
  sum.backward(dout);
  expected.backward(dout);
  for (const auto& [a, b] : {std::pair{x.q, y.q}, {x.k, y.k}, {x.v, y.v}, {x.row_scale, y.row_scale}}) {
    EXPECT_TRUE(torch::allclose(a.grad(), b.grad(), 1e-4, 1e-5));
  }
  // Half precision is rounded once, at the end.
  const Leaves half = x.as(torch::kBFloat16);
  const Tensor rounded =
      summed_attention(half.q, half.k, half.v, {{&first, half.row_scale, 0.25}, {&second, {}, 0.5}});
  EXPECT_EQ(rounded.scalar_type(), torch::kBFloat16);
  EXPECT_TRUE(torch::allclose(rounded.to(torch::kFloat32), expected.detach(), 3e-2, 3e-2));
}

TEST(GroupedAttention, AnIndexChangedInPlaceIsStillChecked) {
  // On a GPU the check would wait for the device.
  Leaves x = Leaves(6, 6, 2, 8, 1).to(torch::kCPU, torch::kFloat32);
  Groups groups = to_groups(full_groups(6), torch::kCPU);
  grouped_attention(x.q, x.k, x.v, groups);
  groups.kv_index[2] = 6;
  EXPECT_THROW(grouped_attention(x.q, x.k, x.v, groups), Error);
}

TEST(GroupedAttention, NanAndInfinityStayInTheirSegment) {
  // Unequal lengths that share a padded batch. Every token in turn is poisoned on all sides: padding that
  // read another segment's token would carry it over.
  const Tensor ids = torch::tensor({0, 0, 0, 1, 1, 2, 2, 2, 2, 2}, torch::kInt64).to(test_device());
  const Groups groups = groups_from_ids(ids, 3);
  for (const auto type : {torch::kFloat64, torch::kFloat32}) {
    Leaves x = Leaves(10, 10, 2, 4, 21).as(type);
    const Tensor clean = grouped_attention(x.q, x.k, x.v, groups).out_LND.detach();
    for (const double poison : {std::nan(""), std::numeric_limits<double>::infinity()}) {
      for (int64_t token = 0; token < 10; ++token) {
        Leaves y = Leaves(10, 10, 2, 4, 21).as(type);
        for (const Tensor& t : {y.q, y.k, y.v}) {
          torch::NoGradGuard guard;
          t.select(0, token).fill_(poison);
        }
        const Tensor out = grouped_attention(y.q, y.k, y.v, groups).out_LND;
        const Tensor other = ids.ne(ids[token]).nonzero().squeeze(1);
        EXPECT_TRUE(torch::equal(out.index_select(0, other), clean.index_select(0, other))) << token;
        EXPECT_TRUE(torch::isnan(out[token]).all().item<bool>()) << token;
        out.sum().backward();
        for (const Tensor& t : {y.q, y.k, y.v}) {
          EXPECT_TRUE(torch::isfinite(t.grad().index_select(0, other)).all().item<bool>()) << token;
        }
      }
    }
  }
}

TEST(GroupedAttention, LargeLogitsDoNotOverflow) {
  Leaves x = Leaves(40, 40, 2, 8, 4).as(torch::kFloat32);
  const Tensor q = (x.q.detach() * 1e4).requires_grad_(true);
  const auto result = grouped_attention(q, x.k, x.v, to_groups(full_groups(40), test_device()), {}, 1.0);
  EXPECT_GT(result.lse_QN.max().item<float>(), 1e4F);
  EXPECT_TRUE(torch::isfinite(result.out_LND).all().item<bool>());
  result.out_LND.sum().backward();
  EXPECT_TRUE(torch::isfinite(q.grad()).all().item<bool>());
  EXPECT_TRUE(torch::isfinite(x.k.grad()).all().item<bool>());
}

TEST(GroupedAttention, PermutingTokensAndGroupsPermutesTheOutput) {
  Leaves x(30, 30, 2, 4, 8);
  const Tensor ids = torch::randint(0, 4, {30}, torch::kInt64).to(test_device());
  const Tensor order = torch::randperm(30).to(test_device());
  const auto run = [](const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& id) {
    return grouped_attention(q, k, v, groups_from_ids(id, 4)).out_LND;
  };
  const auto moved = [&](const Tensor& t) { return t.index_select(0, order); };
  EXPECT_TRUE(torch::allclose(run(moved(x.q), moved(x.k), moved(x.v), moved(ids)),
                              moved(run(x.q, x.k, x.v, ids)), 1e-12, 1e-12));
}

TEST(GroupedAttention, LseMergesKeyHalves) {
  // out = sum_i exp(lse_i - lse) out_i over a split of the keys.
  Leaves x(5, 12, 1, 4, 2);
  const auto over = [&](int64_t begin, int64_t end) {
    Groups groups;
    groups.q_index = torch::arange(5).to(test_device());
    groups.kv_index = torch::arange(begin, end).to(test_device());
    groups.q_offsets = torch::tensor({int64_t{0}, int64_t{5}});
    groups.kv_offsets = torch::tensor({int64_t{0}, end - begin});
    return grouped_attention(x.q, x.k, x.v, groups);
  };
  const auto whole = over(0, 12), first = over(0, 5), second = over(5, 12);
  const Tensor merged = (first.lse_QN - whole.lse_QN).exp().unsqueeze(-1) * first.out_LND +
                        (second.lse_QN - whole.lse_QN).exp().unsqueeze(-1) * second.out_LND;
  EXPECT_TRUE(torch::allclose(merged, whole.out_LND, 1e-12, 1e-12));
  EXPECT_FALSE(whole.lse_QN.requires_grad());
}

TEST(GroupedAttention, NoSegmentsAndNoTokens) {
  Leaves x(4, 4, 2, 3, 1);
  Groups none;
  none.q_index = none.kv_index = torch::empty({0}, torch::kInt64).to(test_device());
  none.q_offsets = none.kv_offsets = torch::zeros({1}, torch::kInt64);
  const Tensor out = grouped_attention(x.q, x.k, x.v, none, x.row_scale).out_LND;
  EXPECT_EQ(out.abs().sum().item<double>(), 0);
  out.sum().backward();
  EXPECT_EQ(x.q.grad().abs().sum().item<double>(), 0);
  const Tensor empty = torch::empty({0, 2, 3}, test_device());
  EXPECT_EQ(grouped_attention(empty, empty, empty, groups_from_ids(none.q_index, 3)).out_LND.numel(), 0);
}

TEST(GroupedAttention, RunsInInferenceModeAndReusesThePlan) {
  Leaves x(60, 60, 2, 4, 6);
  const Groups groups = to_groups(full_groups(60), test_device());
  const Tensor expected = grouped_attention(x.q, x.k, x.v, groups).out_LND.detach();
  const c10::InferenceMode mode;
  EXPECT_TRUE(torch::equal(grouped_attention(x.q, x.k, x.v, groups).out_LND, expected));
}

TEST(GroupedAttention, OtherOffsetsGetAPlanOfTheirOwn) {
  Leaves x(6, 6, 2, 4, 6);
  Groups groups = to_groups(full_groups(6), test_device());
  grouped_attention(x.q, x.k, x.v, groups);
  groups.q_offsets = groups.kv_offsets = torch::tensor({0, 2, 6}, torch::kInt64);
  const Groups fresh = groups_from_ids(torch::tensor({0, 0, 1, 1, 1, 1}, torch::kInt64).to(test_device()), 2);
  EXPECT_TRUE(torch::equal(grouped_attention(x.q, x.k, x.v, groups).out_LND,
                           grouped_attention(x.q, x.k, x.v, fresh).out_LND));
}

TEST(GroupedAttention, DispatcherKnowsTheOperator) {
  const auto op = c10::Dispatcher::singleton().findSchema({"moga::grouped_attention", ""});
  ASSERT_TRUE(op.has_value());
  Leaves x(6, 6, 2, 3, 13);
  const Groups groups = random_groups(6, 6, 13);
  torch::jit::Stack stack = {x.q,
                             x.k,
                             x.v,
                             groups.q_index,
                             groups.q_offsets,
                             groups.kv_index,
                             groups.kv_offsets,
                             x.row_scale,
                             torch::IValue()};
  op->callBoxed(&stack);
  ASSERT_EQ(stack.size(), 2U);
  EXPECT_TRUE(torch::allclose(stack[0].toTensor(),
                              grouped_attention(x.q, x.k, x.v, groups, x.row_scale).out_LND, 1e-12, 1e-12));
  stack[0].toTensor().sum().backward();
  EXPECT_TRUE(x.row_scale.grad().defined());
}

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(GroupedAttention, WrongInputsAreRefusedWithWhatWasFound) {
  const Leaves x = Leaves(6, 5, 2, 3, 1).on(torch::kCPU);
  const Groups good = test::on_device(random_groups(6, 5, 1), torch::kCPU);
  const auto with = [&](const std::function<void(Groups&)>& change) {
    Groups bad = good;
    change(bad);
    return message_of([&] { grouped_attention(x.q, x.k, x.v, bad); });
  };
  using testing::HasSubstr;
  EXPECT_THAT(with([](Groups& g) { g.q_index = g.q_index.clone().fill_(6); }),
              HasSubstr("[0, 6), found 6 to 6"));
  EXPECT_THAT(with([](Groups& g) { g.kv_index = g.kv_index.clone().fill_(-1); }),
              HasSubstr("[0, 5), found -1"));
  EXPECT_THAT(with([](Groups& g) { g.q_index = g.q_index.to(torch::kInt32); }), HasSubstr("int64"));
  EXPECT_THAT(with([](Groups& g) { g.kv_offsets = g.kv_offsets.slice(0, 0, 1); }),
              HasSubstr("kv_offsets end with"));
  EXPECT_THAT(with([](Groups& g) { g.q_offsets = g.q_offsets + 1; }), HasSubstr("must start with 0"));
  EXPECT_THAT(with([](Groups& g) {
                g.q_offsets = torch::tensor({int64_t{0}, g.q_index.numel() + 1, g.q_index.numel()});
              }),
              HasSubstr("fall from"));
  const auto bad_call = [&](const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& row = {}) {
    return message_of([&] { grouped_attention(q, k, v, good, row); });
  };
  EXPECT_THAT(bad_call(x.q[0], x.k, x.v), HasSubstr("[tokens, heads, head size]"));
  EXPECT_THAT(bad_call(x.q, x.k, x.v.slice(2, 0, 2)), HasSubstr("shapes do not fit"));
  EXPECT_THAT(bad_call(x.q, x.k.to(torch::kFloat32), x.v), HasSubstr("one floating dtype"));
  EXPECT_THAT(bad_call(x.q, x.k, x.v, torch::ones({5})), HasSubstr("row_scale [6]"));
  EXPECT_THAT(bad_call({}, x.k, x.v), HasSubstr("must be given"));
}

}  // namespace
}  // namespace moga
