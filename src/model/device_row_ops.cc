#include "model/device_row_ops.h"

#include "base/error.h"

#ifdef MOGA_CUDA_KERNELS
#include <c10/cuda/CUDAGuard.h>

#include "attention/device_launch.h"
#include "kernels/cuda/row_ops.h"
#endif

namespace moga {

using torch::Tensor;

#ifdef MOGA_CUDA_KERNELS
namespace {

// Whole rows at addresses that the kernels can read.
Tensor packed_rows(const Tensor& x) {
  const bool aligned = reinterpret_cast<uintptr_t>(x.data_ptr()) % cuda::kRowAlignment == 0;
  return x.is_contiguous() && aligned ? x : x.clone(torch::MemoryFormat::Contiguous);
}

Tensor packed_floats(const Tensor& x) {
  return packed_rows(x.to(torch::kFloat32));
}

}  // namespace

bool device_takes_rows(const Tensor& x) {
  const auto type = x.scalar_type();
  return x.is_cuda() && x.dim() > 0 && x.numel() > 0 && x.size(-1) % cuda::kRowChannels == 0 &&
         x.size(-1) <= cuda::kMostRowChannels &&
         (type == torch::kFloat32 || type == torch::kFloat16 || type == torch::kBFloat16);
}

Tensor device_norm_modulate(const Tensor& x, const Tensor& scale, const Tensor& shift, double plus,
                            double eps, torch::ScalarType type) {
  const c10::cuda::CUDAGuard guard(x.device());
  const int64_t C = x.size(-1);
  MOGA_CHECK(scale.sizes() == shift.sizes() && scale.size(-1) == C &&
                 (scale.numel() == C || scale.numel() == x.size(0) * C),
             "GPU norm: rows of [{}] with scales of [{}] and shifts of [{}]", fmt::join(x.sizes(), ", "),
             fmt::join(scale.sizes(), ", "), fmt::join(shift.sizes(), ", "));
  const Tensor from = packed_rows(x);
  const Tensor scale_rows = packed_floats(scale);
  const Tensor shift_rows = packed_floats(shift);
  Tensor to = torch::empty(x.sizes(), x.options().dtype(type));
  cuda::NormModulate job;
  job.from_element = element_of(from);
  job.to_element = element_of(type);
  job.from = from.data_ptr();
  job.scale = scale_rows.data_ptr<float>();
  job.shift = shift_rows.data_ptr<float>();
  job.modulation_stride = scale.numel() == C ? 0 : C;
  job.to = to.data_ptr();
  job.rows = x.numel() / C;
  job.rows_per_sample = job.rows / x.size(0);
  job.channels = C;
  job.eps = static_cast<float>(eps);
  job.plus = static_cast<float>(plus);
  check_launch("norm_modulate", cuda::norm_modulate(job, stream_of(x)));
  return to;
}

Tensor device_norm_rope(const Tensor& x, const Tensor& weight_C, double eps, int64_t heads,
                        const RopeTable* table, torch::ScalarType type) {
  const c10::cuda::CUDAGuard guard(x.device());
  const Tensor from = packed_rows(x);
  const Tensor weight = packed_floats(weight_C);
  const Tensor cos = table != nullptr ? packed_floats(table->cos_LP) : Tensor();
  const Tensor sin = table != nullptr ? packed_floats(table->sin_LP) : Tensor();
  Tensor to = torch::empty(x.sizes(), x.options().dtype(type));
  cuda::RmsNormRope job;
  job.from_element = element_of(from);
  job.to_element = element_of(type);
  job.from = from.data_ptr();
  job.weight = weight.data_ptr<float>();
  job.cos = table != nullptr ? cos.data_ptr<float>() : nullptr;
  job.sin = table != nullptr ? sin.data_ptr<float>() : nullptr;
  job.to = to.data_ptr();
  job.rows = x.numel() / x.size(-1);
  job.tokens = table != nullptr ? cos.size(0) : 1;
  job.channels = x.size(-1);
  job.head_size = x.size(-1) / heads;
  job.eps = static_cast<float>(eps);
  check_launch("rms_norm_rope", cuda::rms_norm_rope(job, stream_of(x)));
  return to;
}
#else
bool device_takes_rows(const Tensor&) {
  return false;
}

Tensor device_norm_modulate(const Tensor&, const Tensor&, const Tensor&, double, double, torch::ScalarType) {
  fail("this build has no GPU kernels");
}

Tensor device_norm_rope(const Tensor&, const Tensor&, double, int64_t, const RopeTable*, torch::ScalarType) {
  fail("this build has no GPU kernels");
}
#endif

}  // namespace moga
