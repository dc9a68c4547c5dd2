// The visual attention of a block: the mean of MoGA, window and frame attention over shared q, k, v (paper,
// section on group attention), or plain full attention.
#pragma once

#include <torch/torch.h>

#include <memory>
#include <vector>

#include "attention/grouped_attention.h"
#include "attention/router.h"
#include "attention/sequence_parallel.h"
#include "attention/visual_attention_config.h"

namespace moga {

// Planned once per film, shared by all layers and steps.
struct StaticPlan {
  Groups windows;
  Groups frames;
  Groups full;
  int64_t batch = 1;
  std::shared_ptr<const SequenceParallel> sequence = {};  // if each process has some of the tokens
};
StaticPlan plan_static_groups(const FilmLayout& layout, const MogaConfig& config, int64_t batch,
                              torch::Device device);

// The largest groups of any film of a set.
struct StaticSizes {
  GroupSizes windows;
  GroupSizes frames;
  GroupSizes full;
};
StaticSizes static_group_sizes(const std::vector<FilmLayout>& layouts, const MogaConfig& config);

// The same for a batch of films of one size whose shots differ; with `sizes` padded (to_padded_groups).
StaticPlan plan_static_groups(const std::vector<FilmLayout>& layouts, const MogaConfig& config,
                              torch::Device device, const StaticSizes* sizes = nullptr);

// q, k, v: [L, N, D] with RoPE applied, L = batch * layout.tokens(). `routing` is used by kMoga and kDynamic
// only. With a plan.sequence, L are this process's tokens, and the groups are those of all tokens.
torch::Tensor visual_attention(const torch::Tensor& q_LND, const torch::Tensor& k_LND,
                               const torch::Tensor& v_LND, const StaticPlan& plan, const Routing& routing,
                               const MogaConfig& config);

}  // namespace moga
