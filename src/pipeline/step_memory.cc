#include "pipeline/step_memory.h"

#include <algorithm>

namespace moga {

namespace {

constexpr double kWide = 4;  // bytes of a float32, and of half an int64
constexpr double kPatch = 4;

double parts_of(AttentionKind kind) {
  return kind == AttentionKind::kMoga ? 3 : kind == AttentionKind::kStatic ? 2 : 1;
}

// Rows of model width that a token leaves in a block.
struct BlockRows {
  double wide = 0;    // float32
  double narrow = 0;  // of the products' type
};

// self: input, the norm's output (of which q, k, v and the router are made), q and k before their norms, the
// output before and after its projection. cross: input, the norm's output, q before and after its norm, the
// attention's output before and after segments are put together, feed-forward: input, the norm's output, its
// own output.
constexpr BlockRows kFloat32Rows = {.wide = 6 + 6 + 3};

// self: input, the norm's output before modulation, q and k before their norms, the projected output; cross:
// input, q before its norm; feed-forward: input, the norm's output, its own output. Narrow: each product's
// copy of its input (q, k, v; output; q, output; feed-forward) and the cross-attention's q. The router's copy
// comes on top.
constexpr BlockRows kMixedRows = {.wide = 5 + 2 + 3, .narrow = 4 + 3 + 1};

// Bytes that a block keeps.
double block_bytes(const DitConfig& dit, bool mixed, const StepShape& shape) {
  const auto width = static_cast<double>(dit.dim);
  const auto heads = static_cast<double>(dit.heads);
  const auto groups = static_cast<double>(dit.attention.groups);
  const double narrow = mixed ? 2 : kWide;
  const bool routed = has_routers(dit.attention);
  const double parts = parts_of(dit.attention.kind);
  BlockRows rows = mixed ? kMixedRows : kFloat32Rows;
  rows.narrow += mixed && routed ? 1 : 0;
  double bytes = shape.tokens * width * (kWide * rows.wide + narrow * rows.narrow);
  bytes += shape.tokens * 2 * static_cast<double>(dit.ffn_dim) * narrow;  // before and after its activation
  // q, k and v as they are attended with, and each part's output.
  bytes += shape.attended * width * (3 + parts) * narrow;
  // Keys of the text before and after their norm, and values.
  bytes += shape.text_rows * width * (mixed ? kWide + 2 * narrow : 3 * kWide);
  // Log-sum-exps, means and deviations of a norm; probabilities, ids and what sorts the tokens by them.
  bytes += kWide * (shape.attended * parts * heads + shape.tokens * (heads + 2));
  bytes += routed ? kWide * shape.tokens * (groups + 6) : 0;
  if (mixed) {  // tables that turn q and k; copies of the weights
    bytes += 2 * shape.tokens * static_cast<double>(dit.head_dim()) * kWide;
    bytes += narrow * (8 * width * width + 2 * width * static_cast<double>(dit.ffn_dim));
  }
  return bytes;
}

}  // namespace

StepMemory training_step_memory(const DitConfig& dit, Precision precision, const StepShape& shape) {
  const bool mixed = precision == Precision::kBf16;
  const double narrow = mixed ? 2 : kWide;
  const auto width = static_cast<double>(dit.dim);
  const auto hidden = static_cast<double>(dit.ffn_dim);
  const auto layers = static_cast<double>(dit.layers);
  const double block = block_bytes(dit, mixed, shape);
  const double input = shape.tokens * width * kWide;
  // Clean latents, noise, and their mixture, which the first layer keeps; the text's layers.
  const double ends = shape.tokens * 3 * kPatch * static_cast<double>(dit.in_channels) * kWide +
                      shape.text_rows * (3 * width + static_cast<double>(dit.text_dim)) * narrow;
  // On the way back: the block's gradient; then either two products with it for the gate, or, the
  // feed-forward's output freed, its gradient, that of the inner rows, and that of a weight.
  const double gate = 2 * input;
  const double inner =
      shape.tokens * (width + hidden) * narrow - input + width * hidden * (mixed ? 6 : kWide);
  const double back = input + std::max(gate, inner);
  StepMemory memory;
  memory.whole = ends + layers * block + back;
  memory.recomputed = ends + layers * input + block + back;  // its own input is among them, its output is not
  return memory;
}

}  // namespace moga
