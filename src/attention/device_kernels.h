// libtorch's side of src/kernels/cuda: tensors in, tensors out, on the current stream. Only where those are
// built (MOGA_CUDA_KERNELS); call them under `if constexpr (kHaveDeviceKernels)` with tensors on a GPU.
#pragma once

#include <torch/torch.h>

#include <tuple>
#include <utility>
#include <vector>

#include "attention/slot_rows.h"

namespace moga {

#ifdef MOGA_CUDA_KERNELS
constexpr bool kHaveDeviceKernels = true;
#else
constexpr bool kHaveDeviceKernels = false;
#endif

// Whether rows of x [tokens, N, D] are something that the row kernels can move: of a GPU, float32 or half,
// and of a multiple of 16 bytes.
bool device_moves_rows(const torch::Tensor& x_TND);

// [tokens, N, D] by the side's index -> [slots, N, D], all in one launch.
std::vector<torch::Tensor> device_gather(const std::vector<RowsOfSide>& rows);
// As scatter_slots() and scatter_slots_gradient().
torch::Tensor device_scatter(const torch::Tensor& x_SND, const SlotSide& side,
                             const torch::Tensor& row_scale_L, double factor, torch::Tensor into_LND,
                             bool add);
SlotGradient device_scatter_gradient(const torch::Tensor& dout_LND, const torch::Tensor& x_SND,
                                     const SlotSide& side, const torch::Tensor& row_scale_L, double factor,
                                     bool scale_grad);

// scores_LM [L, M], float32 or half -> softmax [L, M] float32, argmax [L] int64, its probability [L] float32.
std::tuple<torch::Tensor, torch::Tensor, torch::Tensor> device_route(const torch::Tensor& scores_LM);
bool device_sorts(int64_t group_count);
// ids_BL [B, L] int64 -> the stable order of the tokens by group and the groups' offsets.
std::pair<torch::Tensor, torch::Tensor> device_sort(const torch::Tensor& ids_BL, int64_t group_count);

}  // namespace moga
