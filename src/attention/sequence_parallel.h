// Ulysses sequence parallelism: every rank holds some tokens of the film with all heads; for attention the
// ranks exchange, so that each has all tokens with some heads, and back.
//
// Dimensions: B films, L tokens a film, l of them on this rank (a run of neighbours), N heads, n of them on
// this rank during attention, D head size, M groups. Tokens and heads go to the ranks as evenly as they can,
// with no padding: any count of either works, and a rank may have no head.
//
// Values and gradients: what every rank computes alike from gathered tokens (the prediction, the loss) has
// the same value on all of them, and each rank's backward pass gives its own tokens' part of every
// parameter's gradient. The parts add up to the whole.
//
// Source: DeepSpeed-Ulysses (arXiv 2309.14509); paper, section on sequence parallelism: routing comes before
// the exchange, on whole heads.
#pragma once

#include <torch/torch.h>

#include <functional>
#include <memory>
#include <vector>

#include "attention/router.h"
#include "distributed/communicator.h"

namespace moga {

class SequenceParallel : public std::enable_shared_from_this<SequenceParallel> {
 public:
  // Throws Error if there are fewer tokens than ranks.
  SequenceParallel(std::shared_ptr<Communicator> ranks, int64_t batch, int64_t tokens, int64_t heads);

  int64_t begin() const { return begin_; }  // this rank's tokens of each film: [begin, end)
  int64_t end() const { return begin_ + local_tokens(); }
  int64_t local_tokens() const { return tokens_of_[me()]; }
  int64_t local_heads() const { return heads_of_[me()]; }

  using Attention = std::function<torch::Tensor(const torch::Tensor& q_LnD, const torch::Tensor& k_LnD,
                                                const torch::Tensor& v_LnD, const Routing& all)>;
  // q, k, v: [B * l, N, D] of this rank's tokens, films one after another; `local` their routing, which may
  // be empty. Calls `attention` with all tokens [B * L, n, D] and the routing of all (ids and top
  // probabilities; no probs_LM), unless this rank has no head. Returns [B * l, N, D]. Gradients flow through
  // all of it.
  torch::Tensor attend(const torch::Tensor& q_lND, const torch::Tensor& k_lND, const torch::Tensor& v_lND,
                       const Routing& local, const Attention& attention) const;

  // [B, l, ...] -> [B, L, ...] on all ranks; the gradient goes to the rank that has the token.
  torch::Tensor gather_tokens(const torch::Tensor& x_Bl) const;
  // The sum over the ranks, on all ranks; the gradient goes to each rank's own part.
  torch::Tensor sum(const torch::Tensor& part) const;
  // [B * l] -> [B * L], without a gradient: group ids.
  torch::Tensor gather_ids(const torch::Tensor& ids_l) const;

  // The exchanges themselves, without autograd; each is the other's inverse and adjoint.
  using Tensors = std::vector<torch::Tensor>;
  Tensors scatter_heads(const Tensors& x_lND) const;            // each [B * l, N, D] -> [B * L, n, D]
  Tensors gather_heads(const Tensors& x_LnD) const;             // each [B * L, n, D] -> [B * l, N, D]
  torch::Tensor gather_rows(const torch::Tensor& x_l) const;    // [B * l, ...] -> [B * L, ...]
  torch::Tensor sum_to_owners(const torch::Tensor& x_L) const;  // its adjoint: [B * L] -> [B * l]
  torch::Tensor own_tokens(const torch::Tensor& x_BL) const { return x_BL.narrow(1, begin_, local_tokens()); }

 private:
  size_t me() const { return static_cast<size_t>(ranks_->rank()); }
  size_t ranks() const { return tokens_of_.size(); }

  std::shared_ptr<Communicator> ranks_;
  int64_t batch_;
  int64_t tokens_;
  int64_t heads_;
  std::vector<int64_t> tokens_of_;  // a rank
  std::vector<int64_t> heads_of_;
  int64_t begin_ = 0;
};

}  // namespace moga
