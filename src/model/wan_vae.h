// The Wan2.1 causal video VAE: stride (4, 8, 8), streaming encode and decode.
//
// Dimensions: B samples, T frames, Z latent channels, F latent frames; pixels are [B, 3, T, H, W] in [-1, 1].
// Frame 0 makes the first latent frame alone; every later latent frame stands for four frames.
#pragma once

#include <torch/torch.h>

#include <functional>
#include <memory>

#include "model/observer.h"
#include "model/wan_config.h"

namespace moga {

namespace vae_detail {
class Encoder;
class Decoder;
class CausalConv;
struct StreamState;
}  // namespace vae_detail

class WanVaeImpl : public torch::nn::Module {
 public:
  explicit WanVaeImpl(const VaeConfig& config);

  // [B, 3, T, H, W] -> mean and log-variance [B, Z, F, H/8, W/8] each, without the latent scale. Frames
  // beyond the last full 1 + 4n are dropped, as the reference does. H and W must be multiples of 8.
  std::pair<torch::Tensor, torch::Tensor> encode_moments(const torch::Tensor& video_BCTHW);
  // The mean, normalised: (mean - latents_mean) / latents_std. What the diffusion transformer works on.
  torch::Tensor encode(const torch::Tensor& video_BCTHW);
  // Normalised latents [B, Z, F, h, w] -> pixels [B, 3, 4F - 3, 8h, 8w], not clamped.
  torch::Tensor decode(const torch::Tensor& latent_BZFHW);
  // The same without the latent scale (training).
  torch::Tensor decode_unscaled(const torch::Tensor& latent_BZFHW);

  const VaeConfig& config() const { return config_; }
  // The modules that decode: training these alone leaves the latents as they are.
  std::vector<torch::nn::Module*> decoder_parts();
  void set_latent_scale(const std::vector<double>& mean, const std::vector<double>& std);

 private:
  friend class VaeDecodeStream;
  friend class VaeEncodeStream;
  torch::Tensor scale_vector(const std::vector<double>& values, double fallback,
                             const torch::Tensor& like) const;

  VaeConfig config_;
  std::shared_ptr<vae_detail::Encoder> encoder_;
  std::shared_ptr<vae_detail::Decoder> decoder_;
  std::shared_ptr<vae_detail::CausalConv> quant_;
  std::shared_ptr<vae_detail::CausalConv> post_quant_;
};
TORCH_MODULE(WanVae);

// Decodes a film piece by piece with the same result as decode(): memory is bounded by one piece and the
// frames that the causal layers remember.
class VaeDecodeStream {
 public:
  explicit VaeDecodeStream(WanVae vae);
  ~VaeDecodeStream();
  VaeDecodeStream(VaeDecodeStream&&) noexcept;
  VaeDecodeStream& operator=(VaeDecodeStream&&) noexcept;
  // The next latent frames [B, Z, n, h, w], normalised -> their pixels [B, 3, 4n (first call: 4n - 3), 8h,
  // 8w].
  torch::Tensor next(const torch::Tensor& latent_BZFHW);
  // Is given "decoder.conv1", "decoder.middle" and "decoder.upsamples.3" and so on of each piece, [B, C, T,
  // H, W].
  void observe(Observer observer);

 private:
  WanVae vae_;
  std::unique_ptr<vae_detail::StreamState> state_;
};

// Encodes piece by piece: 1 + 4n frames first, then multiples of four.
class VaeEncodeStream {
 public:
  explicit VaeEncodeStream(WanVae vae);
  ~VaeEncodeStream();
  // [B, 3, T, H, W] -> normalised latents of these frames.
  torch::Tensor next(const torch::Tensor& video_BCTHW);
  // Is given "encoder.conv1", "encoder.downsamples.2" and so on, "encoder.middle", "pre_quant" (the encoder's
  // output) and "moments" (mean and log-variance) of each piece, [B, C, T, H, W].
  void observe(Observer observer);

 private:
  WanVae vae_;
  std::unique_ptr<vae_detail::StreamState> state_;
};

}  // namespace moga
