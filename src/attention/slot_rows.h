// Rows of tokens to the slots of segments and back: what surrounds a kernel that runs over all segments at
// once. On a GPU by src/kernels/cuda where that is built, otherwise by libtorch's operations.
//
// Dimensions: L tokens, S slots, N heads, D head size.
#pragma once

#include <torch/torch.h>

#include <vector>

#include "attention/groups.h"

namespace moga {

// The slots of each token: slots[starts[t] .. starts[t + 1]), ascending.
struct SlotInverse {
  torch::Tensor starts;  // [tokens + 1] int64
  torch::Tensor slots;   // [slots] int64
};
SlotInverse invert_index(const torch::Tensor& index, int64_t tokens);

// One side of groups.
struct SlotSide {
  torch::Tensor index;  // [slots] int64
  IndexOrder order = IndexOrder::kAny;
  int64_t tokens = 0;
  SlotInverse inverse = {};  // may be absent where covers()

  // Every token has exactly one slot.
  bool covers() const { return order != IndexOrder::kAny && index.numel() == tokens; }
  bool in_order() const { return covers() && order == IndexOrder::kIdentity; }
};

struct RowsOfSide {
  torch::Tensor x_TND;
  const SlotSide* side;
};
// [tokens, N, D] -> [slots, N, D] each; rows that are in order stay where they are.
std::vector<torch::Tensor> gather_slots(const std::vector<RowsOfSide>& rows);

// The reverse: factor * row_scale[token] * the sum of a token's slots (zero where it has none), [tokens, N,
// D] of x's dtype, sums in float32 or wider. row_scale_L [tokens] may be undefined (ones). `into` may be
// undefined: a new tensor, or x itself where there is nothing to do. With `add` it goes on top of what is in
// `into`.
torch::Tensor scatter_slots(const torch::Tensor& x_SND, const SlotSide& side,
                            const torch::Tensor& row_scale_L = {}, double factor = 1,
                            torch::Tensor into_LND = {}, bool add = false);

struct SlotGradient {
  torch::Tensor x_SND;
  torch::Tensor row_scale_L;  // float32; undefined if there is no row scale
};
// Of scatter_slots(x, side, row_scale, factor), given that of its result.
SlotGradient scatter_slots_gradient(const torch::Tensor& dout_LND, const torch::Tensor& x_SND,
                                    const SlotSide& side, const torch::Tensor& row_scale_L, double factor);

}  // namespace moga
