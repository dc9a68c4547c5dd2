// Optimiser state shared out over processes (ZeRO stage 1), with gradients reduced while the backward pass
// runs.
//
// All parameters are views of one flat tensor, their gradients of another. It is cut into buckets, and each
// rank owns an even slice of every bucket: its *share*. A step is: reduce-scatter of a bucket's gradients as
// soon as the last of them is there; the optimiser on the share alone; all-gather of the values. That moves
// as much as an all-reduce of the gradients would, and the optimiser's state takes 1 / ranks of the memory.
//
// Source: ZeRO (arXiv 1910.02054), stage 1; buckets as in PyTorch DDP (arXiv 2006.15704).
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "distributed/communicator.h"

namespace moga {

class ShardedParameters {
 public:
  static constexpr int64_t kBucketValues = int64_t{1} << 23;  // 32 MiB of float32

  // `flat` [P]: the values, with grad(); `parameters`: views of it that follow each other without gaps, whose
  // gradients are the like views of flat.grad(). `ranks` may be null: one process, whose share is `flat`
  // itself.
  ShardedParameters(torch::Tensor flat, std::vector<torch::Tensor> parameters,
                    std::shared_ptr<Communicator> ranks, int64_t bucket_values = kBucketValues);
  ~ShardedParameters();
  ShardedParameters(const ShardedParameters&) = delete;
  ShardedParameters& operator=(const ShardedParameters&) = delete;

  // What the optimiser works on: this rank's values; grad() after finish_reduction(): the sum of all ranks'
  // gradients there.
  torch::Tensor& share() { return share_; }

  // Before the backward pass that completes the gradients (the last, if they accumulate).
  void start_reduction();
  // After it: sends what is left (parameters that got no gradient count as zero) and waits. `factor`
  // multiplies the sum over the ranks.
  void finish_reduction(double factor = 1);
  // The buckets that were on their way when the last backward pass ended.
  int64_t buckets_overlapped() const { return overlapped_; }

  // Scales the share's gradient so that the whole has at most `max_norm`; returns the whole's norm before
  // that: a scalar on the parameters' device, bit-equal on all ranks.
  torch::Tensor clip_gradients(double max_norm);

  // Puts all ranks' shares into every rank's parameters; take_values() puts the parameters, which all ranks
  // have alike, into the share.
  void publish();
  void take_values();

  // For checkpoints, which so know nothing of the number of ranks; all ranks call them together. gather: [P]
  // on the CPU of rank 0 from all shares, undefined elsewhere. scatter: the shares of what rank 0 has, [P] of
  // the values' dtype; other ranks may give anything.
  torch::Tensor gather(const torch::Tensor& share) const;
  torch::Tensor scatter(const torch::Tensor& whole) const;

 private:
  struct Bucket {
    int64_t begin = 0;
    int64_t end = 0;
    std::vector<int64_t> counts;  // values of each rank
    int64_t own_begin = 0;        // this rank's slice, in `flat`
    int64_t share_begin = 0;      // and in the share
    int64_t parameters = 0;       // that have values in it
    int64_t missing = 0;          // of these, gradients to come
  };
  struct Hook;

  torch::Tensor own_slices(const torch::Tensor& whole) const;
  void gradient_ready(size_t parameter);
  void send_ready();
  bool alone() const { return ranks_ == nullptr || ranks_->size() == 1; }
  int64_t own_count(const Bucket& bucket) const;

  torch::Tensor flat_;
  std::vector<torch::Tensor> parameters_;
  std::shared_ptr<Communicator> ranks_;
  std::vector<Bucket> buckets_;
  std::vector<std::pair<size_t, size_t>> buckets_of_;  // a parameter: [first, last)
  std::vector<Hook> hooks_;
  torch::Tensor share_;
  bool reducing_ = false;
  size_t left_ = 0;  // buckets not yet sent: 0 .. left_ - 1; the last goes first, as gradients come
  std::vector<Pending> pending_;
  int64_t overlapped_ = 0;
};

// Data parallelism beside sequence parallelism: rank r works on films of group r / sequence_size, on tokens
// of part r % sequence_size. Neighbouring ranks share a film, since they exchange the most.
struct Mesh {
  std::shared_ptr<Communicator> world;
  std::shared_ptr<Communicator> sequence;  // the ranks that share this one's films
  int64_t data_rank = 0;
  int64_t data_size = 1;
};

// Throws Error unless sequence_size divides the number of ranks. All ranks call it.
Mesh make_mesh(std::shared_ptr<Communicator> world, int64_t sequence_size);

}  // namespace moga
