#include "model/umt5.h"

#include <limits>

#include "base/error.h"
#include "model/layers.h"
#include "model/row_ops.h"

namespace moga {

using torch::Tensor;

namespace umt5_detail {

class Norm : public torch::nn::Module {
 public:
  Norm(int64_t width, double eps) : weight_(register_parameter("weight", torch::ones({width}))), eps_(eps) {}
  Tensor forward(const Tensor& x) {
    const Tensor wide = x.scalar_type() == torch::kFloat64 ? x : x.to(torch::kFloat32);
    const Tensor scale = torch::rsqrt(wide.square().mean(-1, true) + eps_);
    return weight_ * (x * scale).to(weight_.scalar_type());
  }

 private:
  Tensor weight_;
  double eps_;
};

static Linear no_bias(int64_t in, int64_t out) {
  return Linear(in, out, /*with_bias=*/false);
}

class Attention : public torch::nn::Module {
 public:
  explicit Attention(const TextEncoderConfig& c)
      : q_(register_module("q", no_bias(c.dim, c.dim_attn))),
        k_(register_module("k", no_bias(c.dim, c.dim_attn))),
        v_(register_module("v", no_bias(c.dim, c.dim_attn))),
        o_(register_module("o", no_bias(c.dim_attn, c.dim))),
        heads_(c.heads) {
    if (BareWeights::on()) {
      return;
    }
    // T5's initialisation: scores are not divided by sqrt(D), so the query weights are small instead.
    torch::NoGradGuard guard;
    const double width = static_cast<double>(c.dim);
    const int64_t head_dim = c.dim_attn / c.heads;
    torch::nn::init::normal_(q_->weight, 0, 1 / std::sqrt(width * static_cast<double>(head_dim)));
    torch::nn::init::normal_(k_->weight, 0, 1 / std::sqrt(width));
    torch::nn::init::normal_(v_->weight, 0, 1 / std::sqrt(width));
    torch::nn::init::normal_(o_->weight, 0, 1 / std::sqrt(static_cast<double>(c.dim_attn)));
  }

  // bias_BNLL is added to the scores; there is no 1 / sqrt(D).
  Tensor forward(const Tensor& x, const Tensor& bias) {
    const auto heads = [&](const Tensor& y) { return y.unflatten(-1, {heads_, -1}).transpose(1, 2); };
    const Tensor scores = torch::matmul(heads(q_(x)), heads(k_(x)).transpose(-1, -2)) + bias;
    const Tensor probs = torch::softmax(scores.to(torch::kFloat32), -1).to(x.scalar_type());
    return o_(torch::matmul(probs, heads(v_(x))).transpose(1, 2).flatten(2));
  }

 private:
  Linear q_{nullptr}, k_{nullptr}, v_{nullptr}, o_{nullptr};
  int64_t heads_;
};

class FeedForward : public torch::nn::Module {
 public:
  explicit FeedForward(const TextEncoderConfig& c)
      : gate_(no_bias(c.dim, c.dim_ffn)),
        fc1_(register_module("fc1", no_bias(c.dim, c.dim_ffn))),
        fc2_(register_module("fc2", no_bias(c.dim_ffn, c.dim))) {
    auto gate = std::make_shared<torch::nn::Module>();
    gate->register_module("0", gate_);
    register_module("gate", gate);
  }
  Tensor forward(const Tensor& x) { return fc2_(fc1_(x) * gelu_tanh_of_own(gate_(x))); }

 private:
  Linear gate_{nullptr}, fc1_{nullptr}, fc2_{nullptr};
};

class Block : public torch::nn::Module {
 public:
  explicit Block(const TextEncoderConfig& c)
      : norm1_(register_module("norm1", std::make_shared<Norm>(c.dim, c.eps))),
        attn_(register_module("attn", std::make_shared<Attention>(c))),
        norm2_(register_module("norm2", std::make_shared<Norm>(c.dim, c.eps))),
        ffn_(register_module("ffn", std::make_shared<FeedForward>(c))),
        embedding_(torch::nn::Embedding(c.buckets, c.heads)) {
    auto position = std::make_shared<torch::nn::Module>();
    position->register_module("embedding", embedding_);
    register_module("pos_embedding", position);
    torch::NoGradGuard guard;
    embedding_->weight.mul_(0.1);
  }
  // bucket_LL: relative-position buckets; masked_B11L: true where a key is padding.
  Tensor forward(Tensor x, const Tensor& bucket_LL, const Tensor& masked_B11L, const Observer& observe) {
    const Tensor position = embedding_(bucket_LL).permute({2, 0, 1}).unsqueeze(0);  // [1, N, L, L]
    const double lowest =
        x.scalar_type() == torch::kBFloat16 ? -3.3895313892515355e38 : -std::numeric_limits<float>::max();
    const Tensor bias = position.expand({x.size(0), -1, -1, -1}).masked_fill(masked_B11L, lowest);
    const Tensor normed = norm1_->forward(x);
    const Tensor attended = attn_->forward(normed, bias);
    x = x + attended;
    const Tensor fed = ffn_->forward(norm2_->forward(x));
    x = x + fed;
    if (observe) {
      observe("norm1", normed);
      observe("pos_bias", position);
      observe("attn", attended);
      observe("ffn", fed);
      observe("out", x);
    }
    return x;
  }

 private:
  std::shared_ptr<Norm> norm1_;
  std::shared_ptr<Attention> attn_;
  std::shared_ptr<Norm> norm2_;
  std::shared_ptr<FeedForward> ffn_;
  torch::nn::Embedding embedding_{nullptr};
};

}  // namespace umt5_detail

Tensor relative_position_bucket(const Tensor& relative, int64_t buckets, int64_t max_distance) {
  const int64_t half = buckets / 2;
  const int64_t exact = half / 2;
  const Tensor distance = relative.abs();
  const double per_log = static_cast<double>(half - exact) /
                         std::log(static_cast<double>(max_distance) / static_cast<double>(exact));
  // float32 logarithm as in the reference; distances below `exact` are replaced before it can see a zero.
  const Tensor log_steps =
      (distance.clamp_min(exact).to(torch::kFloat32) / static_cast<double>(exact)).log() * per_log;
  const Tensor far = (exact + log_steps.to(torch::kInt64)).clamp_max(half - 1);
  return (relative > 0).to(torch::kInt64) * half + torch::where(distance < exact, distance, far);
}

// A billion numbers in the real encoder: not drawn only to be overwritten.
static torch::nn::Embedding new_embedding(int64_t rows, int64_t width) {
  torch::nn::EmbeddingOptions options(rows, width);
  if (BareWeights::on()) {
    options._weight(new_weight({rows, width}));
  }
  return torch::nn::Embedding(options);
}

UmT5Impl::UmT5Impl(const TextEncoderConfig& config)
    : config_(config),
      token_embedding_(register_module("token_embedding", new_embedding(config.vocab_size, config.dim))) {
  MOGA_CHECK(config.heads > 0 && config.dim_attn % config.heads == 0,
             "attention width {} is no multiple of {} heads", config.dim_attn, config.heads);
  auto blocks = std::make_shared<torch::nn::Module>();
  for (int64_t i = 0; i < config.layers; ++i) {
    blocks_.push_back(
        blocks->register_module(std::to_string(i), std::make_shared<umt5_detail::Block>(config)));
  }
  register_module("blocks", blocks);
  norm_ = register_module("norm", std::make_shared<umt5_detail::Norm>(config.dim, config.eps));
}

Tensor UmT5Impl::forward(const Tensor& ids_BL, const Tensor& mask_BL, const Observer& observe) {
  const int64_t length = ids_BL.size(1);
  const Tensor position = torch::arange(length, ids_BL.options());
  const Tensor bucket_LL = relative_position_bucket(position.unsqueeze(0) - position.unsqueeze(1),
                                                    config_.buckets, config_.max_distance);
  const Tensor masked = mask_BL.eq(0).unsqueeze(1).unsqueeze(1);
  Tensor x = token_embedding_(ids_BL);
  for (size_t i = 0; i < blocks_.size(); ++i) {
    Observer inside;
    if (observe) {
      inside = [&observe, prefix = "block" + std::to_string(i) + "."](
                   const std::string& name, const Tensor& value) { observe(prefix + name, value); };
    }
    x = blocks_[i]->forward(x, bucket_LL, masked, inside);
  }
  return norm_->forward(x);
}

}  // namespace moga
