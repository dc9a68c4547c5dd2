#include "attention/slot_rows.h"

#include "attention/device_kernels.h"

namespace moga {
namespace {

using torch::Tensor;

torch::ScalarType slot_sum_type(const Tensor& x) {
  return x.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
}

// [tokens] -> [slots, 1, 1] of x's dtype, times factor.
Tensor slot_factors(const Tensor& row_scale_L, const SlotSide& side, double factor, const Tensor& x) {
  const Tensor of_slot = side.in_order() ? row_scale_L : row_scale_L.index_select(0, side.index);
  return of_slot.mul(factor).to(x.scalar_type()).view({-1, 1, 1});
}

Tensor sum_of_slots(const Tensor& x, const SlotSide& side) {
  if (side.in_order()) {
    return x;
  }
  auto sizes = x.sizes().vec();
  sizes[0] = side.tokens;
  if (side.covers()) {
    return torch::empty(sizes, x.options()).index_copy_(0, side.index, x);
  }
  const auto wide = slot_sum_type(x);
  return torch::zeros(sizes, x.options().dtype(wide))
      .index_add_(0, side.index, x.to(wide))
      .to(x.scalar_type());
}

}  // namespace

SlotInverse invert_index(const Tensor& index, int64_t tokens) {
  const auto [sorted, slots] = index.sort(/*stable=*/true, /*dim=*/0, /*descending=*/false);
  return {torch::searchsorted(sorted, torch::arange(tokens + 1, index.options())), slots};
}

std::vector<Tensor> gather_slots(const std::vector<RowsOfSide>& rows) {
  std::vector<Tensor> result(rows.size());
  std::vector<RowsOfSide> moved;
  std::vector<size_t> places;
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto& [x_TND, side] = rows[i];
    if (side->in_order()) {
      result[i] = x_TND;
      continue;
    }
    if constexpr (kHaveDeviceKernels) {
      if (device_moves_rows(x_TND)) {
        moved.push_back(rows[i]);
        places.push_back(i);
        continue;
      }
    }
    result[i] = x_TND.index_select(0, side->index);
  }
  if constexpr (kHaveDeviceKernels) {
    const auto gathered = device_gather(moved);
    for (size_t i = 0; i < places.size(); ++i) {
      result[places[i]] = gathered[i];
    }
  }
  return result;
}

Tensor scatter_slots(const Tensor& x_SND, const SlotSide& side, const Tensor& row_scale_L, double factor,
                     Tensor into_LND, bool add) {
  const bool plain = !row_scale_L.defined() && factor == 1;
  if (side.in_order() && plain && !into_LND.defined()) {
    return x_SND.contiguous();
  }
  if constexpr (kHaveDeviceKernels) {
    if (device_moves_rows(x_SND)) {
      return device_scatter(x_SND, side, row_scale_L, factor, std::move(into_LND), add);
    }
  }
  Tensor scaled = x_SND;
  if (row_scale_L.defined()) {
    scaled = x_SND * slot_factors(row_scale_L, side, factor, x_SND);
  } else if (!plain) {
    scaled = x_SND * factor;
  }
  Tensor sum = sum_of_slots(scaled, side);
  if (!into_LND.defined()) {
    return sum;
  }
  return add ? into_LND.add_(sum) : into_LND.copy_(sum);
}

SlotGradient scatter_slots_gradient(const Tensor& dout_LND, const Tensor& x_SND, const SlotSide& side,
                                    const Tensor& row_scale_L, double factor) {
  if constexpr (kHaveDeviceKernels) {
    if (device_moves_rows(x_SND)) {
      return device_scatter_gradient(dout_LND, x_SND, side, row_scale_L, factor, row_scale_L.defined());
    }
  }
  const Tensor g_SND = gather_slots({{dout_LND.to(x_SND.scalar_type()), &side}})[0];
  if (!row_scale_L.defined()) {
    return {factor == 1 ? g_SND : g_SND * factor, {}};
  }
  const Tensor dot_S = (g_SND * x_SND).sum({1, 2}, /*keepdim=*/false, slot_sum_type(x_SND)).mul_(factor);
  return {g_SND * slot_factors(row_scale_L, side, factor, x_SND), sum_of_slots(dot_S, side)};
}

}  // namespace moga
