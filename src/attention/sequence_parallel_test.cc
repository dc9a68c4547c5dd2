#include "attention/sequence_parallel.h"

#include <gmock/gmock.h>

#include "attention/visual_attention.h"
#include "distributed/ranks_test_util.h"

namespace moga {
namespace {

using torch::Tensor;

// The bound that the equality of many processes and one is held to: rounding of float32, relative to the
// largest value.
constexpr double kBound = 2e-6;

void expect_close(const Tensor& found, const Tensor& expected, const std::string& what) {
  ASSERT_EQ(found.sizes(), expected.sizes()) << what;
  const double largest = expected.abs().max().item<double>();
  const double error = (found - expected).abs().max().item<double>();
  EXPECT_LE(error, kBound * std::max(largest, 1e-3)) << what;
}

struct SplitFilm {
  FilmLayout layout = {5, 3, 3, {0, 2}};  // 45 tokens: uneven on 2, 4 and 8 ranks
  int64_t batch = 2;
  int64_t heads = 3;  // on 4 and 8 ranks some have none
  int64_t dim = 8;
  MogaConfig config;
  Tensor q, k, v, hidden, weight;  // of all tokens, [B, L, ...]
  Router router{nullptr};

  explicit SplitFilm(AttentionKind kind) {
    torch::manual_seed(11);
    config.kind = kind;
    config.groups = 3;
    config.windows = {.rows = 2, .cols = 2, .temporal_group = 2};
    const auto make = [&](int64_t width) {
      return torch::randn({batch, layout.tokens(), width}).to(test_device());
    };
    q = make(heads * dim);
    k = make(heads * dim);
    v = make(heads * dim);
    weight = make(heads * dim);
    hidden = make(6);
    router = Router(6, config.groups);
    router->to(test_device());
  }

  struct Result {
    Tensor out;                 // [B, L or l, C]
    std::vector<Tensor> grads;  // of q, k, v, hidden
    Tensor router_grad;
  };
  Result run(const std::shared_ptr<const SequenceParallel>& sequence) {
    StaticPlan plan = plan_static_groups(layout, config, batch, test_device());
    plan.sequence = sequence;
    const auto leaf = [&](const Tensor& x) {
      return (sequence ? sequence->own_tokens(x) : x).clone().requires_grad_(true);
    };
    std::vector<Tensor> leaves = {leaf(q), leaf(k), leaf(v), leaf(hidden)};
    const auto heads_of = [&](const Tensor& x) { return x.flatten(0, 1).unflatten(1, {heads, dim}); };
    router->zero_grad();
    const Routing routing = router(leaves[3].flatten(0, 1));
    const Tensor out =
        visual_attention(heads_of(leaves[0]), heads_of(leaves[1]), heads_of(leaves[2]), plan, routing, config)
            .flatten(1)
            .unflatten(0, {batch, -1});
    (out * (sequence ? sequence->own_tokens(weight) : weight)).sum().backward();
    Result result;
    result.out = out.detach();
    for (const Tensor& x : leaves) {
      result.grads.push_back(x.grad().defined() ? x.grad() : torch::zeros_like(x));
    }
    const Tensor& grad = router->linear->weight.grad();
    result.router_grad = grad.defined() ? grad.clone() : torch::zeros({3, 6}, test_device());
    return result;
  }
};

TEST(SequenceParallel, AttentionAndItsGradientsAreThoseOfOneProcess) {
  in_ranks({1, 2, 3, 4, 8}, [](const auto& world) {
    for (const auto kind :
         {AttentionKind::kMoga, AttentionKind::kFull, AttentionKind::kStatic, AttentionKind::kDynamic}) {
      SCOPED_TRACE(enum_name(kind));
      SplitFilm film(kind);
      const auto sequence =
          std::make_shared<const SequenceParallel>(world, film.batch, film.layout.tokens(), film.heads);
      const auto whole = film.run(nullptr);
      const auto mine = film.run(sequence);
      expect_close(mine.out, sequence->own_tokens(whole.out), "output");
      for (size_t i = 0; i < whole.grads.size(); ++i) {
        expect_close(mine.grads[i], sequence->own_tokens(whole.grads[i]), "gradient " + std::to_string(i));
      }
      world->all_reduce(mine.router_grad, "router gradient");
      expect_close(mine.router_grad, whole.router_grad, "router gradient");
    }
  });
}

TEST(SequenceParallel, ExchangesAreInverseAndKeepValues) {
  in_ranks({3}, [](const auto& world) {
    const auto sequence = std::make_shared<const SequenceParallel>(world, 2, 10, 7);
    // Every value says where it belongs: film, token, head, channel.
    const Tensor all = torch::arange(2 * 10 * 7 * 4, torch::kFloat64).view({2, 10, 7, 4}).to(test_device());
    const Tensor mine = sequence->own_tokens(all).flatten(0, 1);
    const auto scattered = sequence->scatter_heads({mine, -mine});
    const std::vector<int64_t> first_head = {0, 3, 5};
    const Tensor expected =
        all.narrow(2, first_head[static_cast<size_t>(world->rank())], sequence->local_heads()).flatten(0, 1);
    EXPECT_TRUE(torch::equal(scattered[0], expected));
    EXPECT_TRUE(torch::equal(scattered[1], -expected));
    const auto back = sequence->gather_heads(scattered);
    EXPECT_TRUE(torch::equal(back[0], mine));
    EXPECT_TRUE(torch::equal(back[1], -mine));
  });
}

TEST(SequenceParallel, BalanceLossOfThePartsIsThatOfAllTokens) {
  in_ranks({1, 3}, [](const auto& world) {
    for (const auto form : {BalanceForm::kSwitch, BalanceForm::kPaper}) {
      SplitFilm film(AttentionKind::kMoga);
      const auto sequence =
          std::make_shared<const SequenceParallel>(world, film.batch, film.layout.tokens(), film.heads);
      const Tensor whole = balance_loss(film.router(film.hidden.flatten(0, 1)), form);
      whole.backward();
      const Tensor whole_grad = film.router->linear->weight.grad().clone();
      film.router->zero_grad();
      const Routing local = film.router(sequence->own_tokens(film.hidden).flatten(0, 1));
      const int64_t tokens = film.batch * film.layout.tokens();
      Tensor share_M = group_occupancy(local) * static_cast<double>(local.group_ids_L.numel()) /
                       static_cast<double>(tokens);
      world->all_reduce(share_M, "occupancy");
      const Tensor loss = sequence->sum(balance_loss_part(local, form, share_M, tokens));
      loss.backward();
      expect_close(loss.detach(), whole.detach(), "loss");
      Tensor grad = film.router->linear->weight.grad().clone();
      world->all_reduce(grad, "gradient");
      expect_close(grad, whole_grad, "gradient");
    }
  });
}

TEST(SequenceParallel, TooFewTokens) {
  in_ranks({3}, [](const auto& world) {
    try {
      const SequenceParallel sequence(world, 1, 2, 8);
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr("a film of 2 tokens cannot be split over 3 processes"));
    }
  });
}

}  // namespace
}  // namespace moga
