#include "distributed/sharded_parameters.h"

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/utils/lambda_post_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <numeric>

namespace moga {

// Calls back after each time that autograd has added to a parameter's gradient.
struct ShardedParameters::Hook {
  std::shared_ptr<torch::autograd::Node> accumulator;  // autograd itself keeps only a weak reference
  uintptr_t key = 0;
};

ShardedParameters::ShardedParameters(torch::Tensor flat, std::vector<torch::Tensor> parameters,
                                     std::shared_ptr<Communicator> ranks, int64_t bucket_values)
    : flat_(std::move(flat)), parameters_(std::move(parameters)), ranks_(std::move(ranks)) {
  MOGA_CHECK(flat_.dim() == 1 && flat_.grad().defined() && bucket_values > 0,
             "sharded parameters: expected a flat tensor with a gradient and a positive bucket size");
  if (alone()) {
    share_ = flat_;
    return;
  }
  const int64_t size = ranks_->size();
  const auto me = static_cast<size_t>(ranks_->rank());
  // Whole multiples of the number of ranks, so that all buckets but the last are cut evenly.
  const int64_t step = std::max<int64_t>(1, bucket_values / size) * size;
  int64_t share_size = 0;
  for (int64_t begin = 0; begin < flat_.numel(); begin += step) {
    Bucket bucket;
    bucket.begin = begin;
    bucket.end = std::min(begin + step, flat_.numel());
    bucket.counts = even_counts(bucket.end - bucket.begin, size);
    bucket.own_begin =
        begin + std::accumulate(bucket.counts.begin(), bucket.counts.begin() + ranks_->rank(), int64_t{0});
    bucket.share_begin = share_size;
    share_size += bucket.counts[me];
    buckets_.push_back(bucket);
  }
  int64_t offset = 0;
  for (const torch::Tensor& parameter : parameters_) {
    MOGA_CHECK(parameter.data_ptr() == flat_.narrow(0, offset, parameter.numel()).data_ptr(),
               "sharded parameters: the parameters do not follow each other in the flat tensor");
    const auto first = static_cast<size_t>(offset / step);
    offset += parameter.numel();
    const auto last = static_cast<size_t>((offset + step - 1) / step);
    buckets_of_.emplace_back(first, std::max(first, last));
    for (size_t b = first; b < last; ++b) {
      ++buckets_[b].parameters;
    }
  }
  MOGA_CHECK(offset == flat_.numel(), "sharded parameters: {} of {} values belong to a parameter", offset,
             flat_.numel());
  const torch::NoGradGuard guard;
  share_ = own_slices(flat_.detach());
  share_.mutable_grad() = torch::zeros_like(share_);
  for (size_t i = 0; i < parameters_.size(); ++i) {
    Hook hook;
    hook.accumulator = torch::autograd::impl::grad_accumulator(parameters_[i]);
    hook.key = hook.accumulator->add_post_hook(std::make_unique<torch::autograd::utils::LambdaPostHook>(
        [this, i](const torch::autograd::variable_list& outputs, const torch::autograd::variable_list&) {
          gradient_ready(i);
          return outputs;
        }));
    hooks_.push_back(std::move(hook));
  }
}

ShardedParameters::~ShardedParameters() {
  for (const Hook& hook : hooks_) {
    hook.accumulator->del_post_hook(hook.key);
  }
}

int64_t ShardedParameters::own_count(const Bucket& bucket) const {
  return bucket.counts[static_cast<size_t>(ranks_->rank())];
}

void ShardedParameters::start_reduction() {
  reducing_ = true;
  left_ = buckets_.size();
  for (Bucket& bucket : buckets_) {
    bucket.missing = bucket.parameters;
  }
}

void ShardedParameters::gradient_ready(size_t parameter) {
  if (!reducing_) {
    return;
  }
  const auto [first, last] = buckets_of_[parameter];
  for (size_t b = first; b < last; ++b) {
    MOGA_CHECK(buckets_[b].missing > 0, "a parameter's gradient came twice in one backward pass");
    --buckets_[b].missing;
  }
  while (left_ > 0 && buckets_[left_ - 1].missing == 0) {
    send_ready();
  }
}

// Sends the next bucket. All ranks send in the same order, whatever the order of their gradients.
void ShardedParameters::send_ready() {
  const Bucket& bucket = buckets_[--left_];
  const torch::NoGradGuard guard;
  pending_.push_back(ranks_->reduce_scatter_start(
      flat_.grad().narrow(0, bucket.begin, bucket.end - bucket.begin), bucket.counts,
      share_.grad().narrow(0, bucket.share_begin, own_count(bucket)), "gradients"));
}

void ShardedParameters::finish_reduction(double factor) {
  const torch::NoGradGuard guard;
  if (!alone()) {
    overlapped_ = static_cast<int64_t>(pending_.size());
    while (left_ > 0) {
      send_ready();
    }
    for (Pending& pending : pending_) {
      pending.wait();
    }
    pending_.clear();
  }
  reducing_ = false;
  if (factor != 1) {
    share_.mutable_grad().mul_(factor);
  }
}

torch::Tensor ShardedParameters::clip_gradients(double max_norm) {
  const torch::NoGradGuard guard;
  torch::Tensor& gradient = share_.mutable_grad();
  torch::Tensor norm;
  if (alone()) {
    norm = gradient.norm();
  } else {
    torch::Tensor squares = gradient.square().sum(torch::kFloat64);
    ranks_->all_reduce(squares, "gradient norm");
    norm = squares.sqrt().to(share_.scalar_type());
  }
  gradient.mul_((max_norm / (norm + 1e-12)).clamp_max(1));
  return norm;
}

void ShardedParameters::publish() {
  if (alone()) {
    return;
  }
  const torch::NoGradGuard guard;
  for (const Bucket& bucket : buckets_) {
    flat_.narrow(0, bucket.begin, bucket.end - bucket.begin)
        .copy_(ranks_->all_gather(share_.narrow(0, bucket.share_begin, own_count(bucket)), bucket.counts,
                                  "parameters"));
  }
}

void ShardedParameters::take_values() {
  if (!alone()) {
    const torch::NoGradGuard guard;
    share_.copy_(own_slices(flat_.detach()));
  }
}

torch::Tensor ShardedParameters::own_slices(const torch::Tensor& whole) const {
  std::vector<torch::Tensor> slices;
  for (const Bucket& bucket : buckets_) {
    slices.push_back(whole.narrow(0, bucket.own_begin, own_count(bucket)));
  }
  return torch::cat(slices);
}

torch::Tensor ShardedParameters::scatter(const torch::Tensor& whole) const {
  const bool first = alone() || ranks_->rank() == 0;
  MOGA_CHECK(!first || (whole.dim() == 1 && whole.numel() == flat_.numel() &&
                        whole.scalar_type() == flat_.scalar_type()),
             "expected {} values of {}", flat_.numel(), torch::toString(flat_.scalar_type()));
  if (alone()) {
    return whole.to(flat_.device());
  }
  const torch::NoGradGuard guard;
  std::vector<torch::Tensor> slices;
  for (const Bucket& bucket : buckets_) {
    torch::Tensor values = torch::empty({bucket.end - bucket.begin}, flat_.options().requires_grad(false));
    if (first) {
      values.copy_(whole.narrow(0, bucket.begin, values.numel()));
    }
    ranks_->broadcast(values, 0, "shares");
    slices.push_back(values.narrow(0, bucket.own_begin - bucket.begin, own_count(bucket)).clone());
  }
  return torch::cat(slices);
}

torch::Tensor ShardedParameters::gather(const torch::Tensor& share) const {
  const torch::NoGradGuard guard;
  if (alone()) {
    return share.detach().to(torch::kCPU);
  }
  torch::Tensor whole;
  if (ranks_->rank() == 0) {
    whole = torch::empty({flat_.numel()}, share.options().device(torch::kCPU));
  }
  for (const Bucket& bucket : buckets_) {
    const torch::Tensor values = ranks_->all_gather(
        share.detach().narrow(0, bucket.share_begin, own_count(bucket)), bucket.counts, "shares");
    if (whole.defined()) {
      whole.narrow(0, bucket.begin, bucket.end - bucket.begin).copy_(values);
    }
  }
  return whole;
}

Mesh make_mesh(std::shared_ptr<Communicator> world, int64_t sequence_size) {
  MOGA_CHECK(sequence_size >= 1 && world->size() % sequence_size == 0,
             "{} processes cannot be split into groups of {} that share a film; choose a divisor",
             world->size(), sequence_size);
  Mesh mesh;
  mesh.data_size = world->size() / sequence_size;
  mesh.data_rank = world->rank() / sequence_size;
  std::vector<int64_t> members(static_cast<size_t>(sequence_size));
  std::iota(members.begin(), members.end(), mesh.data_rank * sequence_size);
  mesh.sequence = world->group(fmt::format("sequence{}", mesh.data_rank), members);
  mesh.world = std::move(world);
  return mesh;
}

}  // namespace moga
