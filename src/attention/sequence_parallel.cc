#include "attention/sequence_parallel.h"

#include <numeric>

#include "base/error.h"

namespace moga {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using SequencePtr = std::shared_ptr<const SequenceParallel>;

// Keeps the object in a node of the graph.
struct SequenceHolder : torch::CustomClassHolder {
  explicit SequenceHolder(SequencePtr held) : sequence(std::move(held)) {}
  SequencePtr sequence;
};

void hold(AutogradContext* ctx, const SequencePtr& sequence) {
  ctx->saved_data["sequence"] = torch::IValue::make_capsule(c10::make_intrusive<SequenceHolder>(sequence));
}

SequencePtr held(AutogradContext* ctx) {
  return c10::static_intrusive_pointer_cast<SequenceHolder>(ctx->saved_data["sequence"].toCapsule())
      ->sequence;
}

class ScatterHeads : public torch::autograd::Function<ScatterHeads> {
 public:
  static variable_list forward(AutogradContext* ctx, const torch::Tensor& q, const torch::Tensor& k,
                               const torch::Tensor& v, const SequencePtr& sequence) {
    hold(ctx, sequence);
    return sequence->scatter_heads({q, k, v});
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    variable_list inputs = held(ctx)->gather_heads(grads);
    inputs.emplace_back();
    return inputs;
  }
};

class GatherHeads : public torch::autograd::Function<GatherHeads> {
 public:
  static torch::Tensor forward(AutogradContext* ctx, const torch::Tensor& out_LnD,
                               const SequencePtr& sequence) {
    hold(ctx, sequence);
    return sequence->gather_heads({out_LnD})[0];
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    return {held(ctx)->scatter_heads({grads[0]})[0], {}};
  }
};

// Every rank's heads use every token's probability, so a token's gradient is a sum over the ranks.
class GatherProbabilities : public torch::autograd::Function<GatherProbabilities> {
 public:
  static torch::Tensor forward(AutogradContext* ctx, const torch::Tensor& p_l, const SequencePtr& sequence) {
    hold(ctx, sequence);
    return sequence->gather_rows(p_l);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    return {held(ctx)->sum_to_owners(grads[0]), {}};
  }
};

class GatherTokens : public torch::autograd::Function<GatherTokens> {
 public:
  static torch::Tensor forward(AutogradContext* ctx, const torch::Tensor& x_Bl, const SequencePtr& sequence) {
    hold(ctx, sequence);
    return sequence->gather_rows(x_Bl.flatten(0, 1)).unflatten(0, {x_Bl.size(0), -1});
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    return {held(ctx)->own_tokens(grads[0]), {}};
  }
};

class SumOverRanks : public torch::autograd::Function<SumOverRanks> {
 public:
  static torch::Tensor forward(AutogradContext*, const torch::Tensor& part, Communicator* ranks) {
    torch::Tensor total = part.clone(at::MemoryFormat::Contiguous);
    ranks->all_reduce(total, "sum over tokens");
    return total;
  }
  static variable_list backward(AutogradContext*, const variable_list& grads) { return {grads[0], {}}; }
};

}  // namespace

SequenceParallel::SequenceParallel(std::shared_ptr<Communicator> ranks, int64_t batch, int64_t tokens,
                                   int64_t heads)
    : ranks_(std::move(ranks)),
      batch_(batch),
      tokens_(tokens),
      heads_(heads),
      tokens_of_(even_counts(tokens, ranks_->size())),
      heads_of_(even_counts(heads, ranks_->size())) {
  MOGA_CHECK(tokens >= ranks_->size(),
             "a film of {} tokens cannot be split over {} processes; use fewer, or a longer film", tokens,
             ranks_->size());
  begin_ = std::accumulate(tokens_of_.begin(), tokens_of_.begin() + ranks_->rank(), int64_t{0});
}

SequenceParallel::Tensors SequenceParallel::scatter_heads(const Tensors& x_lND) const {
  const auto K = static_cast<int64_t>(x_lND.size());
  const int64_t D = x_lND[0].size(2);
  const torch::Tensor buffer = torch::empty({K * batch_ * local_tokens() * heads_ * D}, x_lND[0].options());
  std::vector<int64_t> send;
  std::vector<int64_t> receive;
  int64_t head = 0;
  int64_t offset = 0;
  for (size_t r = 0; r < ranks(); ++r) {
    for (const torch::Tensor& x : x_lND) {
      const torch::Tensor piece = x.narrow(1, head, heads_of_[r]);
      buffer.narrow(0, offset, piece.numel()).view(piece.sizes()).copy_(piece);
      offset += piece.numel();
    }
    head += heads_of_[r];
    send.push_back(K * batch_ * local_tokens() * heads_of_[r] * D);
    receive.push_back(K * batch_ * tokens_of_[r] * local_heads() * D);
  }
  const torch::Tensor received = ranks_->all_to_all(buffer, send, receive, "heads out");
  Tensors parts;
  offset = 0;
  for (size_t r = 0; r < ranks(); ++r) {
    parts.push_back(
        received.narrow(0, offset, receive[r]).view({K, batch_, tokens_of_[r], local_heads(), D}));
    offset += receive[r];
  }
  return torch::cat(parts, 2).flatten(1, 2).unbind(0);  // [K, B, L, n, D] -> K times [B * L, n, D]
}

SequenceParallel::Tensors SequenceParallel::gather_heads(const Tensors& x_LnD) const {
  const auto K = static_cast<int64_t>(x_LnD.size());
  const int64_t D = x_LnD[0].size(2);
  const torch::Tensor buffer = torch::empty({K * batch_ * tokens_ * local_heads() * D}, x_LnD[0].options());
  std::vector<int64_t> send;
  std::vector<int64_t> receive;
  int64_t token = 0;
  int64_t offset = 0;
  for (size_t r = 0; r < ranks(); ++r) {
    for (const torch::Tensor& x : x_LnD) {
      const torch::Tensor piece = x.unflatten(0, {batch_, tokens_}).narrow(1, token, tokens_of_[r]);
      buffer.narrow(0, offset, piece.numel()).view(piece.sizes()).copy_(piece);
      offset += piece.numel();
    }
    token += tokens_of_[r];
    send.push_back(K * batch_ * tokens_of_[r] * local_heads() * D);
    receive.push_back(K * batch_ * local_tokens() * heads_of_[r] * D);
  }
  const torch::Tensor received = ranks_->all_to_all(buffer, send, receive, "heads back");
  Tensors parts;
  offset = 0;
  for (size_t r = 0; r < ranks(); ++r) {
    parts.push_back(
        received.narrow(0, offset, receive[r]).view({K, batch_ * local_tokens(), heads_of_[r], D}));
    offset += receive[r];
  }
  return torch::cat(parts, 2).unbind(0);  // [K, B * l, N, D]
}

torch::Tensor SequenceParallel::gather_rows(const torch::Tensor& x_l) const {
  std::vector<int64_t> counts = tokens_of_;
  for (int64_t& count : counts) {
    count *= batch_;
  }
  torch::Tensor gathered = ranks_->all_gather(x_l, counts, "tokens");
  if (batch_ == 1) {
    return gathered;
  }
  Tensors parts;
  int64_t row = 0;
  for (size_t r = 0; r < ranks(); ++r) {
    parts.push_back(gathered.narrow(0, row, counts[r]).unflatten(0, {batch_, tokens_of_[r]}));
    row += counts[r];
  }
  return torch::cat(parts, 1).flatten(0, 1);
}

torch::Tensor SequenceParallel::sum_to_owners(const torch::Tensor& x_L) const {
  const torch::Tensor x_BL = x_L.view({batch_, tokens_});
  Tensors pieces;
  std::vector<int64_t> counts;
  int64_t token = 0;
  for (const int64_t count : tokens_of_) {
    pieces.push_back(x_BL.narrow(1, token, count).reshape(-1));
    counts.push_back(batch_ * count);
    token += count;
  }
  return ranks_->reduce_scatter(torch::cat(pieces), counts, "router probabilities");
}

torch::Tensor SequenceParallel::gather_tokens(const torch::Tensor& x_Bl) const {
  return GatherTokens::apply(x_Bl, shared_from_this());
}

torch::Tensor SequenceParallel::sum(const torch::Tensor& part) const {
  return SumOverRanks::apply(part, ranks_.get());
}

torch::Tensor SequenceParallel::gather_ids(const torch::Tensor& ids_l) const {
  const torch::NoGradGuard guard;
  return gather_rows(ids_l.to(torch::kInt32)).to(torch::kInt64);  // half the bytes
}

torch::Tensor SequenceParallel::attend(const torch::Tensor& q_lND, const torch::Tensor& k_lND,
                                       const torch::Tensor& v_lND, const Routing& local,
                                       const Attention& attention) const {
  MOGA_CHECK(q_lND.dim() == 3 && q_lND.size(0) == batch_ * local_tokens() && q_lND.size(1) == heads_ &&
                 q_lND.sizes() == k_lND.sizes() && q_lND.sizes() == v_lND.sizes(),
             "sequence-parallel attention: expected q, k and v of [{}, {}, D], found {}, {} and {}",
             batch_ * local_tokens(), heads_, fmt::join(q_lND.sizes(), " x "),
             fmt::join(k_lND.sizes(), " x "), fmt::join(v_lND.sizes(), " x "));
  const SequencePtr self = shared_from_this();
  Routing all;
  if (local.group_ids_L.defined()) {
    all.group_ids_L = gather_ids(local.group_ids_L);
    all.top_prob_L = GatherProbabilities::apply(local.top_prob_L, self);
  }
  const variable_list qkv = ScatterHeads::apply(q_lND, k_lND, v_lND, self);
  torch::Tensor out_LnD;
  if (local_heads() > 0) {
    out_LnD = attention(qkv[0], qkv[1], qkv[2], all);
  } else {
    // Nothing to compute, but the other ranks count on this one in the exchanges of the backward pass: empty
    // sums keep them in its graph.
    out_LnD = qkv[0] + qkv[1] + qkv[2];
    if (all.top_prob_L.defined()) {
      out_LnD = out_LnD + all.top_prob_L.to(out_LnD.scalar_type()).view({-1, 1, 1});
    }
  }
  return GatherHeads::apply(out_LnD, self);
}

}  // namespace moga
