// How time works here. Every layer is causal: a convolution over time sees its own input's past, zeros before
// the first frame. A StreamState remembers for each such layer the last frames that it saw, so that a film
// can pass in pieces; without a state the whole sequence passes at once. Both give the same numbers.
//
// Inside, tensors are [B, T, C, H, W], so that frames of all samples are one batch for 2-D convolutions: a
// 3x3x3 convolution is a 3x3 one over three frames stacked on the channel axis. libtorch's own 3-D
// convolution is 5 to 9 times slower on CPUs (12-32 against 76-184 GFLOP/s at 12 to 32 channels, two cores).
#include "model/wan_vae.h"

#include <unordered_map>

#include "attention/grouped_attention.h"
#include "base/error.h"
#include "model/linear.h"

namespace moga {

namespace vae_detail {

// Frames that a layer remembers, by layer. An entry that is absent means that nothing was seen yet.
struct StreamState {
  std::unordered_map<const void*, torch::Tensor> history;
  Observer observe;
};

using torch::Tensor;

static void note(const StreamState* state, const std::string& name, const Tensor& x_BTCHW) {
  if (state != nullptr && state->observe) {
    state->observe(name, x_BTCHW.transpose(1, 2));
  }
}

// Applies a function of [B * T, C, H, W] to [B, T, C, H, W].
template <typename F>
static Tensor per_frame(const Tensor& x, F&& function) {
  return function(x.flatten(0, 1)).unflatten(0, {x.size(0), x.size(1)});
}

static Tensor zero_frames(const Tensor& like, int64_t count) {
  auto sizes = like.sizes().vec();
  sizes[1] = count;
  return torch::zeros(sizes, like.options());
}

// x with the last `count` frames of the past in front: from the state, zeros where there are fewer.
static Tensor with_history(const Tensor& x, int64_t count, const void* layer, StreamState* state) {
  Tensor past = zero_frames(x, count);
  if (state != nullptr) {
    Tensor& slot = state->history[layer];
    if (slot.defined()) {
      past = torch::cat({past, slot}, 1).slice(1, -count);
    }
    const Tensor seen = slot.defined() ? torch::cat({slot, x}, 1) : x;
    slot = seen.slice(1, std::max<int64_t>(0, seen.size(1) - count)).clone();
  }
  return torch::cat({past, x}, 1);
}

// L2 norm over channels: x / max(|x|, 1e-12) * sqrt(C) * gamma.
class ChannelNorm : public torch::nn::Module {
 public:
  ChannelNorm(int64_t channels, int64_t trailing_ones)
      : gamma_(register_parameter("gamma", torch::ones(shape(channels, trailing_ones)))) {}
  Tensor forward(const Tensor& x) {
    const int64_t C = x.size(2);
    const Tensor norm = x.square().sum(2, /*keepdim=*/true).sqrt().clamp_min(1e-12);
    return x / norm * (std::sqrt(static_cast<double>(C)) * gamma_.view({C, 1, 1}));
  }

 private:
  static std::vector<int64_t> shape(int64_t channels, int64_t trailing_ones) {
    std::vector<int64_t> sizes(static_cast<size_t>(trailing_ones) + 1, 1);
    sizes[0] = channels;
    return sizes;
  }
  Tensor gamma_;
};

// A convolution over (time, rows, columns), causal in time, "same" in space. Odd kernels.
class CausalConv : public torch::nn::Module {
 public:
  CausalConv(int64_t in, int64_t out, int64_t time_kernel, int64_t space_kernel)
      : time_kernel_(time_kernel), space_kernel_(space_kernel) {
    if (BareWeights::on()) {
      weight_ = register_parameter("weight", new_weight({out, in, time_kernel, space_kernel, space_kernel}));
      bias_ = register_parameter("bias", new_weight({out}));
      return;
    }
    // The reference's initialisation is that of its framework's convolutions: uniform within 1 /
    // sqrt(fan-in).
    const double bound = 1 / std::sqrt(static_cast<double>(in * time_kernel * space_kernel * space_kernel));
    weight_ = register_parameter(
        "weight", (torch::rand({out, in, time_kernel, space_kernel, space_kernel}) * 2 - 1) * bound);
    bias_ = register_parameter("bias", (torch::rand({out}) * 2 - 1) * bound);
  }

  Tensor forward(const Tensor& x, StreamState* state) {
    const int64_t past = time_kernel_ - 1;
    if (x.is_cuda() && past > 0) {
      // A GPU's own 3-D convolution is the faster one (2.6 times on an H100, 12 channels of 64 x 64). The
      // memory behind [B, T, C, H, W] is [B, C, T, H, W] then, which everything pointwise keeps.
      const Tensor whole = state == nullptr ? torch::constant_pad_nd(x.transpose(1, 2), {0, 0, 0, 0, past, 0})
                                            : with_history(x, past, this, state).transpose(1, 2);
      const int64_t side = space_kernel_ / 2;
      return torch::conv3d(whole, weight_, bias_, /*stride=*/1, /*padding=*/{0, side, side}).transpose(1, 2);
    }
    return apply(past > 0 ? with_history(x, past, this, state) : x, /*time_stride=*/1);
  }

  // Without past frames in front: out[i] sees x[i * stride .. i * stride + kernel).
  Tensor apply(const Tensor& x, int64_t time_stride) {
    const int64_t steps = (x.size(1) - time_kernel_) / time_stride + 1;
    std::vector<Tensor> taps;
    for (int64_t i = 0; i < time_kernel_; ++i) {
      taps.push_back(x.slice(1, i, i + (steps - 1) * time_stride + 1, time_stride));
    }
    const Tensor stacked = taps.size() == 1 ? taps[0] : torch::cat(taps, 2);
    const Tensor kernel = weight_.transpose(1, 2).flatten(1, 2);  // [out, time * in, k, k]
    return per_frame(stacked, [&](const Tensor& frames) {
      return torch::conv2d(frames, kernel, bias_, /*stride=*/1, /*padding=*/space_kernel_ / 2);
    });
  }

 private:
  int64_t time_kernel_;
  int64_t space_kernel_;
  Tensor weight_;
  Tensor bias_;
};

class ResBlock : public torch::nn::Module {
 public:
  ResBlock(int64_t in, int64_t out) {
    auto residual = std::make_shared<torch::nn::Module>();
    norm1_ = residual->register_module("0", std::make_shared<ChannelNorm>(in, 3));
    conv1_ = residual->register_module("2", std::make_shared<CausalConv>(in, out, 3, 3));
    norm2_ = residual->register_module("3", std::make_shared<ChannelNorm>(out, 3));
    conv2_ = residual->register_module("6", std::make_shared<CausalConv>(out, out, 3, 3));
    register_module("residual", residual);
    if (in != out) {
      shortcut_ = register_module("shortcut", std::make_shared<CausalConv>(in, out, 1, 1));
    }
  }
  Tensor forward(const Tensor& x, StreamState* state) {
    Tensor y = conv1_->forward(torch::silu(norm1_->forward(x)), state);
    y = conv2_->forward(torch::silu(norm2_->forward(y)), state);
    return y + (shortcut_ ? shortcut_->forward(x, state) : x);
  }

 private:
  std::shared_ptr<ChannelNorm> norm1_, norm2_;
  std::shared_ptr<CausalConv> conv1_, conv2_, shortcut_;
};

// Single-head attention among the positions of each frame: frame groups.
class FrameAttention : public torch::nn::Module {
 public:
  explicit FrameAttention(int64_t channels)
      : norm_(register_module("norm", std::make_shared<ChannelNorm>(channels, 2))),
        to_qkv_(register_module("to_qkv", torch::nn::Conv2d(channels, 3 * channels, 1))),
        proj_(register_module("proj", torch::nn::Conv2d(channels, channels, 1))) {}
  Tensor forward(const Tensor& x) {
    const int64_t frames = x.size(0) * x.size(1);
    const Groups& groups = frame_groups_of({frames, x.size(3), x.size(4)}, x.device());
    return x + per_frame(norm_->forward(x), [&](const Tensor& flat) {
             const Tensor qkv = to_qkv_(flat).permute({0, 2, 3, 1}).flatten(0, 2).unsqueeze(1);  // [L, 1, 3C]
             const auto parts = qkv.chunk(3, -1);
             const Tensor out = grouped_attention(parts[0], parts[1], parts[2], groups).out_LND;
             return proj_(out.view({frames, x.size(3), x.size(4), -1}).permute({0, 3, 1, 2}));
           });
  }

 private:
  // The groups of the newest size are kept, with how they are batched: pieces of a film are mostly alike.
  const Groups& frame_groups_of(const FilmLayout& layout, torch::Device device) {
    const bool fits = groups_.q_index.defined() && groups_.q_index.device() == device &&
                      layout.frames == layout_.frames && layout.rows == layout_.rows &&
                      layout.cols == layout_.cols;
    if (!fits) {
      groups_ = to_groups(frame_groups(layout), device);
      layout_ = layout;
    }
    return groups_;
  }

  std::shared_ptr<ChannelNorm> norm_;
  torch::nn::Conv2d to_qkv_{nullptr}, proj_{nullptr};
  FilmLayout layout_;
  Groups groups_;
};

enum class Rescale { kSpace, kSpaceAndTime };

// Halves rows and columns, and in time four frames become two (the very first frame stays one).
class Downsample : public torch::nn::Module {
 public:
  Downsample(int64_t channels, Rescale mode) {
    auto resample = std::make_shared<torch::nn::Module>();
    conv_ = resample->register_module(
        "1", torch::nn::Conv2d(torch::nn::Conv2dOptions(channels, channels, 3).stride(2)));
    register_module("resample", resample);
    if (mode == Rescale::kSpaceAndTime) {
      time_conv_ = register_module("time_conv", std::make_shared<CausalConv>(channels, channels, 3, 1));
    }
  }
  Tensor forward(const Tensor& x, StreamState* state) {
    Tensor small = per_frame(x, [&](const Tensor& frames) {
      return conv_(torch::constant_pad_nd(frames, {0, 1, 0, 1}, 0));
    });
    if (!time_conv_) {
      return small;
    }
    Tensor last;
    if (state != nullptr) {
      Tensor& slot = state->history[this];
      last = slot;
      slot = small.slice(1, -1).clone();
    }
    if (last.defined()) {
      return time_conv_->apply(torch::cat({last, small}, 1), /*time_stride=*/2);
    }
    const Tensor first = small.slice(1, 0, 1);  // passes untouched by the time convolution
    return small.size(1) == 1 ? first : torch::cat({first, time_conv_->apply(small, 2)}, 1);
  }

 private:
  torch::nn::Conv2d conv_{nullptr};
  std::shared_ptr<CausalConv> time_conv_;
};

// Doubles rows and columns and halves the channels; in time one frame becomes two (the very first stays one,
// and the time convolution never sees it).
class Upsample : public torch::nn::Module {
 public:
  Upsample(int64_t channels, Rescale mode) {
    auto resample = std::make_shared<torch::nn::Module>();
    conv_ = resample->register_module(
        "1", torch::nn::Conv2d(torch::nn::Conv2dOptions(channels, channels / 2, 3).padding(1)));
    register_module("resample", resample);
    if (mode == Rescale::kSpaceAndTime) {
      time_conv_ = register_module("time_conv", std::make_shared<CausalConv>(channels, 2 * channels, 3, 1));
    }
  }
  Tensor forward(const Tensor& x, StreamState* state) {
    return per_frame(time_conv_ ? double_frames(x, state) : x, [&](const Tensor& frames) {
      return conv_(torch::upsample_nearest2d(frames, {frames.size(2) * 2, frames.size(3) * 2}));
    });
  }

 private:
  Tensor double_frames(const Tensor& x, StreamState* state) {
    bool at_start = true;
    if (state != nullptr) {
      Tensor& seen = state->history[this];
      at_start = !seen.defined();
      seen = torch::ones({1});
    }
    std::vector<Tensor> parts;
    if (at_start) {
      parts.push_back(x.slice(1, 0, 1));
    }
    const Tensor rest = at_start ? x.slice(1, 1) : x;
    if (rest.size(1) > 0) {
      // Channels [0, C) are the even frames, [C, 2C) the odd ones.
      const Tensor pairs = time_conv_->forward(rest, state).unflatten(2, {2, x.size(2)});
      parts.push_back(pairs.flatten(1, 2));
    }
    return parts.size() == 1 ? parts[0] : torch::cat(parts, 1);
  }

  torch::nn::Conv2d conv_{nullptr};
  std::shared_ptr<CausalConv> time_conv_;
};

// norm, SiLU, convolution: the last layers of both halves, under the names "0" and "2".
class Head : public torch::nn::Module {
 public:
  Head(int64_t in, int64_t out)
      : norm_(register_module("0", std::make_shared<ChannelNorm>(in, 3))),
        conv_(register_module("2", std::make_shared<CausalConv>(in, out, 3, 3))) {}
  Tensor forward(const Tensor& x, StreamState* state) {
    return conv_->forward(torch::silu(norm_->forward(x)), state);
  }

 private:
  std::shared_ptr<ChannelNorm> norm_;
  std::shared_ptr<CausalConv> conv_;
};

class Middle : public torch::nn::Module {
 public:
  explicit Middle(int64_t channels)
      : first_(register_module("0", std::make_shared<ResBlock>(channels, channels))),
        attention_(register_module("1", std::make_shared<FrameAttention>(channels))),
        last_(register_module("2", std::make_shared<ResBlock>(channels, channels))) {}
  Tensor forward(const Tensor& x, StreamState* state) {
    return last_->forward(attention_->forward(first_->forward(x, state)), state);
  }

 private:
  std::shared_ptr<ResBlock> first_;
  std::shared_ptr<FrameAttention> attention_;
  std::shared_ptr<ResBlock> last_;
};

using Stage = std::function<Tensor(const Tensor&, StreamState*)>;

// Registers `module` under the next number of `list` and returns its forward as a stage.
template <typename M>
static Stage add_stage(torch::nn::Module& list, std::shared_ptr<M> module) {
  list.register_module(std::to_string(list.children().size()), module);
  return [raw = module.get()](const Tensor& x, StreamState* state) { return raw->forward(x, state); };
}

class Encoder : public torch::nn::Module {
 public:
  explicit Encoder(const VaeConfig& config) {
    int64_t channels = config.dim;
    conv_in_ = register_module("conv1", std::make_shared<CausalConv>(3, channels, 3, 3));
    auto list = std::make_shared<torch::nn::Module>();
    const size_t levels = config.dim_mult.size();
    for (size_t level = 0; level < levels; ++level) {
      const int64_t width = config.dim * config.dim_mult[level];
      for (int64_t i = 0; i < config.res_blocks; ++i) {
        stages_.push_back(add_stage(*list, std::make_shared<ResBlock>(channels, width)));
        channels = width;
      }
      if (level + 1 < levels) {
        const Rescale mode = level == 0 ? Rescale::kSpace : Rescale::kSpaceAndTime;
        stages_.push_back(add_stage(*list, std::make_shared<Downsample>(channels, mode)));
      }
    }
    register_module("downsamples", list);
    middle_ = register_module("middle", std::make_shared<Middle>(channels));
    head_ = register_module("head", std::make_shared<Head>(channels, 2 * config.z_dim));
  }
  Tensor forward(const Tensor& x, StreamState* state) {
    Tensor y = conv_in_->forward(x, state);
    note(state, "encoder.conv1", y);
    for (size_t i = 0; i < stages_.size(); ++i) {
      y = stages_[i](y, state);
      note(state, "encoder.downsamples." + std::to_string(i), y);
    }
    y = middle_->forward(y, state);
    note(state, "encoder.middle", y);
    return head_->forward(y, state);
  }

 private:
  std::shared_ptr<CausalConv> conv_in_;
  std::vector<Stage> stages_;
  std::shared_ptr<Middle> middle_;
  std::shared_ptr<Head> head_;
};

class Decoder : public torch::nn::Module {
 public:
  explicit Decoder(const VaeConfig& config) {
    int64_t channels = config.dim * config.dim_mult.back();
    conv_in_ = register_module("conv1", std::make_shared<CausalConv>(config.z_dim, channels, 3, 3));
    middle_ = register_module("middle", std::make_shared<Middle>(channels));
    auto list = std::make_shared<torch::nn::Module>();
    const size_t levels = config.dim_mult.size();
    for (size_t level = 0; level < levels; ++level) {
      const int64_t width = config.dim * config.dim_mult[levels - 1 - level];
      for (int64_t i = 0; i <= config.res_blocks; ++i) {
        stages_.push_back(add_stage(*list, std::make_shared<ResBlock>(channels, width)));
        channels = width;
      }
      if (level + 1 < levels) {
        const Rescale mode = level + 2 < levels ? Rescale::kSpaceAndTime : Rescale::kSpace;
        stages_.push_back(add_stage(*list, std::make_shared<Upsample>(channels, mode)));
        channels /= 2;
      }
    }
    register_module("upsamples", list);
    head_ = register_module("head", std::make_shared<Head>(channels, 3));
  }
  Tensor forward(const Tensor& z, StreamState* state) {
    Tensor y = conv_in_->forward(z, state);
    note(state, "decoder.conv1", y);
    y = middle_->forward(y, state);
    note(state, "decoder.middle", y);
    for (size_t i = 0; i < stages_.size(); ++i) {
      y = stages_[i](y, state);
      note(state, "decoder.upsamples." + std::to_string(i), y);
    }
    return head_->forward(y, state);
  }

 private:
  std::shared_ptr<CausalConv> conv_in_;
  std::shared_ptr<Middle> middle_;
  std::vector<Stage> stages_;
  std::shared_ptr<Head> head_;
};

}  // namespace vae_detail

using vae_detail::StreamState;

WanVaeImpl::WanVaeImpl(const VaeConfig& config)
    : config_(config),
      encoder_(register_module("encoder", std::make_shared<vae_detail::Encoder>(config))),
      decoder_(register_module("decoder", std::make_shared<vae_detail::Decoder>(config))),
      quant_(register_module(
          "conv1", std::make_shared<vae_detail::CausalConv>(2 * config.z_dim, 2 * config.z_dim, 1, 1))),
      post_quant_(register_module(
          "conv2", std::make_shared<vae_detail::CausalConv>(config.z_dim, config.z_dim, 1, 1))) {
  MOGA_CHECK(config.dim_mult.size() == 4, "the VAE has four levels, found {} in dim_mult",
             config.dim_mult.size());
}

static void check_video(const torch::Tensor& video) {
  MOGA_CHECK(video.dim() == 5 && video.size(1) == 3 && video.size(2) >= 1 && video.size(3) % 8 == 0 &&
                 video.size(4) % 8 == 0,
             "expected video of [B, 3, T, H, W] with H and W multiples of 8, found {}",
             fmt::join(video.sizes(), " x "));
}

torch::Tensor WanVaeImpl::scale_vector(const std::vector<double>& values, double fallback,
                                       const torch::Tensor& like) const {
  const std::vector<double> filled =
      values.empty() ? std::vector<double>(static_cast<size_t>(config_.z_dim), fallback) : values;
  MOGA_CHECK(static_cast<int64_t>(filled.size()) == config_.z_dim, "expected {} latent scales, found {}",
             config_.z_dim, filled.size());
  return torch::tensor(filled, torch::kFloat64).to(like.options()).view({1, -1, 1, 1, 1});
}

std::vector<torch::nn::Module*> WanVaeImpl::decoder_parts() {
  return {decoder_.get(), post_quant_.get()};
}

void WanVaeImpl::set_latent_scale(const std::vector<double>& mean, const std::vector<double>& std) {
  config_.latents_mean = mean;
  config_.latents_std = std;
}

std::pair<torch::Tensor, torch::Tensor> WanVaeImpl::encode_moments(const torch::Tensor& video_BCTHW) {
  check_video(video_BCTHW);
  const int64_t frames = (video_BCTHW.size(2) - 1) / 4 * 4 + 1;
  const torch::Tensor x = video_BCTHW.slice(2, 0, frames).transpose(1, 2);
  const torch::Tensor moments = quant_->forward(encoder_->forward(x, nullptr), nullptr).transpose(1, 2);
  const auto parts = moments.chunk(2, 1);
  return {parts[0], parts[1]};
}

torch::Tensor WanVaeImpl::encode(const torch::Tensor& video_BCTHW) {
  const torch::Tensor mean = encode_moments(video_BCTHW).first;
  return (mean - scale_vector(config_.latents_mean, 0, mean)) / scale_vector(config_.latents_std, 1, mean);
}

torch::Tensor WanVaeImpl::decode_unscaled(const torch::Tensor& latent_BZFHW) {
  return decoder_->forward(post_quant_->forward(latent_BZFHW.transpose(1, 2), nullptr), nullptr)
      .transpose(1, 2);
}

torch::Tensor WanVaeImpl::decode(const torch::Tensor& latent_BZFHW) {
  return decode_unscaled(latent_BZFHW * scale_vector(config_.latents_std, 1, latent_BZFHW) +
                         scale_vector(config_.latents_mean, 0, latent_BZFHW));
}

VaeDecodeStream::VaeDecodeStream(WanVae vae)
    : vae_(std::move(vae)), state_(std::make_unique<StreamState>()) {}
VaeDecodeStream::~VaeDecodeStream() = default;
VaeDecodeStream::VaeDecodeStream(VaeDecodeStream&&) noexcept = default;
VaeDecodeStream& VaeDecodeStream::operator=(VaeDecodeStream&&) noexcept = default;

void VaeDecodeStream::observe(Observer observer) {
  state_->observe = std::move(observer);
}

torch::Tensor VaeDecodeStream::next(const torch::Tensor& latent_BZFHW) {
  const torch::Tensor scaled = latent_BZFHW * vae_->scale_vector(vae_->config_.latents_std, 1, latent_BZFHW) +
                               vae_->scale_vector(vae_->config_.latents_mean, 0, latent_BZFHW);
  return vae_->decoder_
      ->forward(vae_->post_quant_->forward(scaled.transpose(1, 2), state_.get()), state_.get())
      .transpose(1, 2);
}

VaeEncodeStream::VaeEncodeStream(WanVae vae)
    : vae_(std::move(vae)), state_(std::make_unique<StreamState>()) {}
VaeEncodeStream::~VaeEncodeStream() = default;

void VaeEncodeStream::observe(Observer observer) {
  state_->observe = std::move(observer);
}

torch::Tensor VaeEncodeStream::next(const torch::Tensor& video_BCTHW) {
  check_video(video_BCTHW);
  const bool first = state_->history.empty();
  MOGA_CHECK(video_BCTHW.size(2) % 4 == (first ? 1 : 0), "expected {} frames, found {}",
             first ? "4n + 1" : "4n", video_BCTHW.size(2));
  const torch::Tensor encoded = vae_->encoder_->forward(video_BCTHW.transpose(1, 2), state_.get());
  const torch::Tensor moments = vae_->quant_->forward(encoded, state_.get());
  vae_detail::note(state_.get(), "pre_quant", encoded);
  vae_detail::note(state_.get(), "moments", moments);
  const torch::Tensor mean = moments.transpose(1, 2).chunk(2, 1)[0];
  return (mean - vae_->scale_vector(vae_->config_.latents_mean, 0, mean)) /
         vae_->scale_vector(vae_->config_.latents_std, 1, mean);
}

}  // namespace moga
