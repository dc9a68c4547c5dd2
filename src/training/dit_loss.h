// Rectified flow with the balancing loss (method of the paper, section on training): what a batch costs.
#pragma once

#include "model/wan_dit.h"
#include "training/captions.h"
#include "training/dit_data.h"
#include "training/loop.h"

namespace moga {

// The batch's captions as the transformer takes them, [B, plan.captions, rows, text_dim].
torch::Tensor caption_rows(CaptionSource& captions, const DitBatch& batch);

// mean |v - (noise - x_0)|^2 over all elements of the batch, in float32. text_BSRT: caption_rows(). `trace`
// receives the routing.
torch::Tensor flow_loss(WanDit& dit, const torch::Tensor& text_BSRT, const DitBatch& batch, DitTrace* trace);

// flow_loss + balance_weight * sum over layers of the balancing loss, with what there is to know about
// groups: balance, sparsity (1 - pairs of tokens that meet / all pairs, mean over layers), occupancy_least,
// occupancy_most, and occupancy [layers, M]. With `world`, the processes that have the other films and tokens
// of the batch: groups are counted over all of them.
StepResult dit_loss(const TrainConfig& config, WanDit& dit, const torch::Tensor& text_BSRT,
                    const DitBatch& batch, Communicator* world = nullptr);

// Pairs that meet in one attention layer, as a share of all pairs of a film; a token may meet another in
// several groups. routing: nothing for attention without routers. A scalar on the device.
torch::Tensor attention_share(const DitPlan& plan, const Routing* routing);

// The flow loss at each level, mean over the first `films` films of `data` with fixed noise: {"0.1": ...,
// ...}.
nlohmann::ordered_json measure_flow(WanDit& dit, CaptionSource& captions, DitData& data,
                                    const ValidationConfig& validation);

}  // namespace moga
