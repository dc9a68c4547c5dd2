// Between pictures (CV_8UC3, RGB) and tensors. The one header of this folder that knows libtorch.
#pragma once

#include <torch/torch.h>

#include <opencv2/core.hpp>
#include <vector>

#include "base/error.h"

namespace moga {

// A picture -> [3, H, W] uint8 (a copy).
inline torch::Tensor image_to_tensor(const cv::Mat& rgb) {
  MOGA_CHECK(rgb.type() == CV_8UC3, "expected an 8-bit RGB picture");
  const cv::Mat whole = rgb.isContinuous() ? rgb : rgb.clone();
  return torch::from_blob(whole.data, {whole.rows, whole.cols, 3}, torch::kUInt8)
      .permute({2, 0, 1})
      .contiguous();
}

// [3, H, W] in [-1, 1] (clamped) -> a picture.
inline cv::Mat tensor_to_image(const torch::Tensor& chw) {
  const torch::Tensor bytes = ((chw.detach().to(torch::kCPU, torch::kFloat32).clamp(-1, 1) + 1) * 127.5)
                                  .round()
                                  .to(torch::kUInt8)
                                  .permute({1, 2, 0})
                                  .contiguous();
  return cv::Mat(static_cast<int>(bytes.size(0)), static_cast<int>(bytes.size(1)), CV_8UC3, bytes.data_ptr())
      .clone();
}

// uint8 [..] -> float32 in [-1, 1].
inline torch::Tensor bytes_to_unit(const torch::Tensor& bytes) {
  return bytes.to(torch::kFloat32) / 127.5 - 1;
}

}  // namespace moga
