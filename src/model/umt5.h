// The umT5 text encoder (T5 v1.1 with a relative-position bias in every layer).
//
// Dimensions: B texts, L tokens, C width.
#pragma once

#include <torch/torch.h>

#include <memory>
#include <vector>

#include "model/observer.h"
#include "model/wan_config.h"

namespace moga {

namespace umt5_detail {
class Block;
class Norm;
}  // namespace umt5_detail

class UmT5Impl : public torch::nn::Module {
 public:
  explicit UmT5Impl(const TextEncoderConfig& config);

  // ids_BL, mask_BL [B, L] int64 (mask 1 for tokens, 0 for padding) -> [B, L, C]. Rows of padding are
  // computed too; callers drop or zero them. `observe` is given, of each block, "block3.norm1", "pos_bias",
  // "attn", "ffn" and "out".
  torch::Tensor forward(const torch::Tensor& ids_BL, const torch::Tensor& mask_BL,
                        const Observer& observe = nullptr);

  const TextEncoderConfig& config() const { return config_; }

 private:
  TextEncoderConfig config_;
  torch::nn::Embedding token_embedding_{nullptr};
  std::vector<std::shared_ptr<umt5_detail::Block>> blocks_;
  std::shared_ptr<umt5_detail::Norm> norm_;
};
TORCH_MODULE(UmT5);

// Bucket of a relative position (key index - query index), both directions. [..] int64 -> [..] int64.
torch::Tensor relative_position_bucket(const torch::Tensor& relative, int64_t buckets, int64_t max_distance);

}  // namespace moga
