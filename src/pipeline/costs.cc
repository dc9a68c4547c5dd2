#include "pipeline/costs.h"

#include <cmath>
#include <vector>

namespace moga {
namespace {

constexpr double kPatch = 4;  // a token is 1 x 2 x 2 latent positions

bool has_router(const DitConfig& dit) {
  return dit.attention.kind == AttentionKind::kMoga || dit.attention.kind == AttentionKind::kDynamic;
}

// Adds up convolutions and norms of the VAE as its structure is walked.
struct ConvSum {
  double parameters = 0;
  double flops = 0;

  void conv(double in, double out, double kernel, double positions) {
    parameters += in * out * kernel + out;
    flops += 2 * in * out * kernel * positions;
  }
  void norm(double channels) { parameters += channels; }
  void res_block(double in, double out, double positions) {
    norm(in);
    conv(in, out, 27, positions);
    norm(out);
    conv(out, out, 27, positions);
    if (in != out) {
      conv(in, out, 1, positions);
    }
  }
  // Two residual blocks around single-head attention inside each frame of `frame` positions.
  void middle(double channels, double frame, double frames) {
    res_block(channels, channels, frame * frames);
    norm(channels);
    conv(channels, 3 * channels, 1, frame * frames);
    flops += 4 * frame * frame * channels * frames;
    conv(channels, channels, 1, frame * frames);
    res_block(channels, channels, frame * frames);
  }
};

// Which of the three changes of resolution also halve or double time, from the pixels inwards.
bool temporal(size_t level) {
  return level == 1 || level == 2;
}

void walk_encoder(const VaeConfig& vae, ConvSum& sum) {
  const auto dim = static_cast<double>(vae.dim);
  const auto z = static_cast<double>(vae.z_dim);
  sum.conv(3, dim, 27, 0);
  double channels = dim;
  for (size_t level = 0; level < vae.dim_mult.size(); ++level) {
    const double out = dim * static_cast<double>(vae.dim_mult[level]);
    for (int64_t i = 0; i < vae.res_blocks; ++i) {
      sum.res_block(channels, out, 0);
      channels = out;
    }
    if (level + 1 < vae.dim_mult.size()) {
      sum.conv(out, out, 9, 0);
      if (temporal(level)) {
        sum.conv(out, out, 3, 0);
      }
    }
  }
  sum.middle(channels, 0, 0);
  sum.norm(channels);
  sum.conv(channels, 2 * z, 27, 0);
  sum.conv(2 * z, 2 * z, 1, 0);
}

void walk_decoder(const VaeConfig& vae, double frames, double frame, ConvSum& sum) {
  const auto dim = static_cast<double>(vae.dim);
  const auto z = static_cast<double>(vae.z_dim);
  double channels = dim * static_cast<double>(vae.dim_mult.back());
  sum.conv(z, z, 1, frames * frame);
  sum.conv(z, channels, 27, frames * frame);
  sum.middle(channels, frame, frames);
  for (size_t level = vae.dim_mult.size(); level-- > 0;) {
    const double out = dim * static_cast<double>(vae.dim_mult[level]);
    for (int64_t i = 0; i <= vae.res_blocks; ++i) {
      sum.res_block(channels, out, frames * frame);
      channels = out;
    }
    if (level > 0) {
      if (temporal(level - 1)) {
        sum.conv(channels, 2 * channels, 3, frames * frame);
        frames *= 2;
      }
      frame *= 4;
      sum.conv(channels, channels / 2, 9, frames * frame);
      channels /= 2;
    }
  }
  sum.norm(channels);
  sum.conv(channels, 3, 27, frames * frame);
}

}  // namespace

int64_t router_parameters(const DitConfig& dit) {
  return has_router(dit) ? dit.layers * dit.attention.groups * (dit.dim + 1) : 0;
}

int64_t dit_parameters(const DitConfig& dit) {
  const int64_t d = dit.dim;
  const int64_t f = dit.ffn_dim;
  const auto linear = [](int64_t in, int64_t out) { return in * out + out; };
  const int64_t attention = 4 * linear(d, d) + 2 * d;  // q, k, v, o and the norms of q and k
  const int64_t block = 2 * attention + linear(d, f) + linear(f, d) + 6 * d + 2 * d;  // modulation, norm3
  const int64_t text = linear(dit.text_dim, d) + linear(d, d);
  const int64_t time = linear(dit.freq_dim, d) + linear(d, d) + linear(d, 6 * d);
  const int64_t ends = linear(dit.in_channels * 4, d) + linear(d, dit.out_channels * 4) + 2 * d;
  return dit.layers * block + text + time + ends + router_parameters(dit);
}

int64_t dit_float32_parameters(const DitConfig& dit) {
  const int64_t d = dit.dim;
  const auto linear = [](int64_t in, int64_t out) { return in * out + out; };
  const int64_t time = linear(dit.freq_dim, d) + linear(d, d) + linear(d, 6 * d);
  const int64_t ends = linear(dit.in_channels * 4, d) + linear(d, dit.out_channels * 4) + 2 * d;
  const int64_t block = 4 * d + 2 * d + 6 * d;  // norms of q and k in both attentions, norm3, modulation
  return time + ends + dit.layers * block + router_parameters(dit);
}

int64_t vae_parameters(const VaeConfig& vae) {
  ConvSum sum;
  walk_encoder(vae, sum);
  walk_decoder(vae, 0, 0, sum);
  return std::llround(sum.parameters);
}

int64_t text_parameters(const TextEncoderConfig& text) {
  const int64_t block =
      4 * text.dim * text.dim_attn + 3 * text.dim * text.dim_ffn + 2 * text.dim + text.buckets * text.heads;
  return text.vocab_size * text.dim + text.layers * block + text.dim;
}

double dit_dense_flops(const DitConfig& dit, double tokens, double captions, double captions_seen) {
  const auto d = static_cast<double>(dit.dim);
  const auto f = static_cast<double>(dit.ffn_dim);
  const auto text_len = static_cast<double>(dit.text_len);
  const double text_rows = captions * text_len;
  const double visual = 2 * tokens * d * d * 4;                            // q, k, v, o
  const double cross = 2 * tokens * d * d * 2 + 2 * text_rows * d * d * 2  // q, o; k, v of the text
                       + 4 * tokens * captions_seen * text_len * d;        // scores and weighted sum
  const double ffn = 2 * tokens * d * f * 2;
  const double text = 2 * text_rows * (static_cast<double>(dit.text_dim) * d + d * d);
  const double time = 2 * (static_cast<double>(dit.freq_dim) * d + d * d + 6 * d * d);
  const double ends = 2 * tokens * d * kPatch * static_cast<double>(dit.in_channels + dit.out_channels);
  return static_cast<double>(dit.layers) * (visual + cross + ffn) + text + time + ends;
}

double attention_flops(const DitConfig& dit, double pairs) {
  return static_cast<double>(dit.layers) * 4 * pairs * static_cast<double>(dit.dim);
}

double router_flops(const DitConfig& dit, double tokens) {
  return 2 * tokens * static_cast<double>(router_parameters(dit)) * static_cast<double>(dit.dim) /
         static_cast<double>(dit.dim + 1);
}

double vae_decode_flops(const VaeConfig& vae, int64_t latent_frames, int64_t width, int64_t height) {
  ConvSum sum;
  const int64_t area = (width / 8) * (height / 8);
  walk_decoder(vae, static_cast<double>(latent_frames), static_cast<double>(area), sum);
  return sum.flops;
}

}  // namespace moga
