#include "attention/device_kernels.h"

#ifdef MOGA_CUDA_KERNELS
#include <c10/cuda/CUDAGuard.h>

#include "attention/device_launch.h"
#include "base/error.h"
#include "kernels/cuda/token_kernels.h"

namespace moga {
namespace {

using torch::Tensor;

int64_t row_bytes(const Tensor& x_TND) {
  return x_TND.size(1) * x_TND.size(2) * static_cast<int64_t>(x_TND.element_size());
}

bool row_aligned(const Tensor& x) {
  return reinterpret_cast<uintptr_t>(x.data_ptr()) % cuda::kRowAlignment == 0;
}

// x itself where each row lies in one piece at an address that the kernels can read.
Tensor with_whole_rows(const Tensor& x_TND) {
  const auto bytes = static_cast<int64_t>(x_TND.element_size());
  const bool whole = x_TND.stride(2) == 1 && x_TND.stride(1) == x_TND.size(2) &&
                     x_TND.stride(0) * bytes % cuda::kRowAlignment == 0 && row_aligned(x_TND);
  return whole ? x_TND : x_TND.clone(torch::MemoryFormat::Contiguous);
}

Tensor packed(const Tensor& x) {
  return x.is_contiguous() && row_aligned(x) ? x : x.clone(torch::MemoryFormat::Contiguous);
}

const int64_t* index_of(const SlotSide& side, const Tensor& contiguous) {
  return side.in_order() ? nullptr : contiguous.data_ptr<int64_t>();
}

// [tokens] float32, or undefined.
Tensor float_scale(const Tensor& row_scale_L) {
  return row_scale_L.defined() ? row_scale_L.detach().to(torch::kFloat32).contiguous() : Tensor();
}

}  // namespace

bool device_moves_rows(const Tensor& x_TND) {
  const auto type = x_TND.scalar_type();
  return x_TND.is_cuda() && x_TND.dim() == 3 &&
         (type == torch::kFloat32 || type == torch::kFloat16 || type == torch::kBFloat16) &&
         row_bytes(x_TND) % cuda::kRowAlignment == 0;
}

std::vector<Tensor> device_gather(const std::vector<RowsOfSide>& rows) {
  std::vector<Tensor> result;
  std::vector<Tensor> kept;
  std::vector<cuda::RowGather> jobs;
  for (const auto& [x_TND, side] : rows) {
    MOGA_CHECK(row_bytes(x_TND) == row_bytes(rows.front().x_TND),
               "GPU gather: rows of {} and {} bytes in one launch", row_bytes(x_TND),
               row_bytes(rows.front().x_TND));
    const Tensor from = with_whole_rows(x_TND);
    const Tensor index = side->index.contiguous();
    const Tensor to = torch::empty({index.numel(), x_TND.size(1), x_TND.size(2)}, x_TND.options());
    jobs.push_back({from.data_ptr(), from.stride(0) * static_cast<int64_t>(from.element_size()),
                    index.data_ptr<int64_t>(), to.data_ptr(), index.numel()});
    result.push_back(to);
    kept.insert(kept.end(), {from, index});
  }
  if (!jobs.empty()) {
    const c10::cuda::CUDAGuard guard(rows.front().x_TND.device());
    MOGA_CHECK(jobs.size() <= cuda::kMostGathers, "GPU gather: at most {} tensors in one launch, found {}",
               cuda::kMostGathers, jobs.size());
    check_launch("gather_rows",
                 cuda::gather_rows(jobs.data(), static_cast<int>(jobs.size()), row_bytes(rows.front().x_TND),
                                   stream_of(rows.front().x_TND)));
  }
  return result;
}

Tensor device_scatter(const Tensor& x_SND, const SlotSide& side, const Tensor& row_scale_L, double factor,
                      Tensor into_LND, bool add) {
  const c10::cuda::CUDAGuard guard(x_SND.device());
  const Tensor from = packed(x_SND);
  const Tensor scale = float_scale(row_scale_L);
  if (!into_LND.defined()) {
    into_LND = torch::empty({side.tokens, x_SND.size(1), x_SND.size(2)}, x_SND.options());
  }
  MOGA_CHECK(into_LND.is_contiguous() && row_aligned(into_LND), "GPU scatter: the result must be contiguous");
  const float* scales = scale.defined() ? scale.data_ptr<float>() : nullptr;
  const int64_t width = x_SND.size(1) * x_SND.size(2);
  if (side.covers()) {
    const Tensor index = side.index.contiguous();
    check_launch("scatter_rows", cuda::scatter_rows({element_of(from), from.data_ptr(), index_of(side, index),
                                                     scales, static_cast<float>(factor), add,
                                                     into_LND.data_ptr(), from.size(0), width},
                                                    stream_of(from)));
    return into_LND;
  }
  const SlotInverse inverse =
      side.inverse.starts.defined() ? side.inverse : invert_index(side.index, side.tokens);
  check_launch("sum_rows",
               cuda::sum_rows({element_of(from), from.data_ptr(), inverse.starts.data_ptr<int64_t>(),
                               inverse.slots.data_ptr<int64_t>(), scales, static_cast<float>(factor), add,
                               into_LND.data_ptr(), side.tokens, width},
                              stream_of(from)));
  return into_LND;
}

SlotGradient device_scatter_gradient(const Tensor& dout_LND, const Tensor& x_SND, const SlotSide& side,
                                     const Tensor& row_scale_L, double factor, bool scale_grad) {
  const c10::cuda::CUDAGuard guard(x_SND.device());
  const Tensor to_grad = packed(dout_LND.to(x_SND.scalar_type()));
  const Tensor from = packed(x_SND);
  const Tensor scale = float_scale(row_scale_L);
  const Tensor index = side.index.contiguous();
  SlotGradient grad;
  grad.x_SND = torch::empty(from.sizes(), from.options());
  const Tensor dot_S =
      scale_grad ? torch::empty({from.size(0)}, from.options().dtype(torch::kFloat32)) : Tensor();
  check_launch("scatter_rows_gradient",
               cuda::scatter_rows_gradient(
                   {element_of(from), to_grad.data_ptr(), from.data_ptr(), index_of(side, index),
                    scale.defined() ? scale.data_ptr<float>() : nullptr, static_cast<float>(factor),
                    grad.x_SND.data_ptr(), scale_grad ? dot_S.data_ptr<float>() : nullptr, from.size(0),
                    x_SND.size(1) * x_SND.size(2)},
                   stream_of(from)));
  if (scale_grad) {  // L numbers
    grad.row_scale_L = side.in_order() ? dot_S
                       : side.covers()
                           ? torch::empty({side.tokens}, dot_S.options()).index_copy_(0, side.index, dot_S)
                           : torch::zeros({side.tokens}, dot_S.options()).index_add_(0, side.index, dot_S);
  }
  return grad;
}

std::tuple<Tensor, Tensor, Tensor> device_route(const Tensor& scores_LM) {
  const c10::cuda::CUDAGuard guard(scores_LM.device());
  const Tensor scores = scores_LM.contiguous();
  const auto floats = scores.options().dtype(torch::kFloat32);
  Tensor probs_LM = torch::empty(scores.sizes(), floats);
  Tensor ids_L = torch::empty({scores.size(0)}, scores.options().dtype(torch::kInt64));
  Tensor top_L = torch::empty({scores.size(0)}, floats);
  check_launch("route_tokens", cuda::route_tokens({element_of(scores), scores.data_ptr(),
                                                   probs_LM.data_ptr<float>(), ids_L.data_ptr<int64_t>(),
                                                   top_L.data_ptr<float>(), scores.size(0), scores.size(1)},
                                                  stream_of(scores)));
  return {probs_LM, ids_L, top_L};
}

bool device_sorts(int64_t group_count) {
  return group_count <= cuda::kMostSortedGroups;
}

std::pair<Tensor, Tensor> device_sort(const Tensor& ids_BL, int64_t group_count) {
  const c10::cuda::CUDAGuard guard(ids_BL.device());
  const Tensor ids = ids_BL.contiguous();
  const int64_t batch = ids.size(0);
  const int64_t tokens = ids.size(1);
  Tensor order_L = torch::empty({batch * tokens}, ids.options());
  Tensor offsets = torch::empty({batch * group_count + 1}, ids.options());
  const Tensor workspace = torch::empty({cuda::group_sort_workspace(batch, tokens, group_count)},
                                        ids.options().dtype(torch::kUInt8));
  check_launch("sort_groups", cuda::sort_groups({ids.data_ptr<int64_t>(), batch, tokens, group_count,
                                                 order_L.data_ptr<int64_t>(), offsets.data_ptr<int64_t>(),
                                                 workspace.data_ptr()},
                                                stream_of(ids)));
  return {order_L, offsets};
}

}  // namespace moga
#endif
