#include "model/rope.h"

#include "attention/upload.h"
#include "base/error.h"

namespace moga {

// [positions, width / 2] angles of one axis.
static torch::Tensor axis_angles(int64_t positions, int64_t width) {
  const auto wide = torch::TensorOptions().dtype(torch::kFloat64);
  const torch::Tensor exponent = torch::arange(0, width, 2, wide) / static_cast<double>(width);
  const torch::Tensor frequency = torch::pow(10000.0, exponent).reciprocal();
  return torch::outer(torch::arange(positions, wide), frequency);
}

RopeTable rope_table(const FilmLayout& layout, int64_t head_dim, torch::ScalarType dtype,
                     torch::Device device) {
  MOGA_CHECK(head_dim % 2 == 0, "rotary embedding needs an even head size, found {}", head_dim);
  const int64_t side = 2 * (head_dim / 6);
  const int64_t F = layout.frames;
  const int64_t Y = layout.rows;
  const int64_t X = layout.cols;
  const torch::Tensor time = axis_angles(F, head_dim - 2 * side).view({F, 1, 1, -1}).expand({F, Y, X, -1});
  const torch::Tensor row = axis_angles(Y, side).view({1, Y, 1, -1}).expand({F, Y, X, -1});
  const torch::Tensor col = axis_angles(X, side).view({1, 1, X, -1}).expand({F, Y, X, -1});
  const torch::Tensor angles_LP = torch::cat({time, row, col}, -1).reshape({F * Y * X, head_dim / 2});
  return {upload(angles_LP.cos().to(dtype), device), upload(angles_LP.sin().to(dtype), device)};
}

torch::Tensor apply_rope(const torch::Tensor& x_BLND, const RopeTable& table) {
  const torch::Tensor pairs = x_BLND.unflatten(-1, {x_BLND.size(-1) / 2, 2});  // [B, L, N, P, 2]
  if (x_BLND.is_cuda()) {  // one complex product instead of seven kernels
    const torch::Tensor rotation_L1P = torch::complex(table.cos_LP, table.sin_LP).unsqueeze(1);
    const torch::Tensor turned = torch::view_as_complex(pairs.to(table.cos_LP.scalar_type())) * rotation_L1P;
    return torch::view_as_real(turned).flatten(-2).to(x_BLND.scalar_type());
  }
  const torch::Tensor a = pairs.select(-1, 0);
  const torch::Tensor b = pairs.select(-1, 1);
  const torch::Tensor cos = table.cos_LP.unsqueeze(1);  // [L, 1, P]
  const torch::Tensor sin = table.sin_LP.unsqueeze(1);
  return torch::stack({a * cos - b * sin, a * sin + b * cos}, -1).flatten(-2).to(x_BLND.scalar_type());
}

}  // namespace moga
