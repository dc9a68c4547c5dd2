// Against golden data of the official Wan2.1 code with tiny random weights (skipped where the data is
// missing).
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "io/safetensors.h"
#include "model/umt5.h"
#include "model/wan_dit.h"
#include "model/wan_vae.h"
#include "model/weights.h"

namespace moga {
namespace {

namespace fs = std::filesystem;
using torch::Tensor;

class Golden : public testing::Test {
 protected:
  void SetUp() override {
    const char* folder = std::getenv("MOGA_FIXTURES");
    folder_ = folder != nullptr ? folder : MOGA_SOURCE_DIR "/../shared/fixtures/wan";
    if (!fs::exists(folder_ / "configs.json")) {
      GTEST_SKIP() << "no golden data in " << folder_;
    }
    torch::manual_seed(1);
  }
  TensorMap read(const std::string& file) { return SafetensorsFile(folder_ / file).read_all(); }
  fs::path folder_;
};

double max_error(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  return (a - b).abs().max().item<double>();
}

DitConfig tiny_dit() {
  DitConfig config;
  config.dim = 64;
  config.ffn_dim = 144;
  config.freq_dim = 32;
  config.text_dim = 40;
  config.text_len = 16;
  config.heads = 4;
  config.layers = 2;
  config.attention.kind = AttentionKind::kFull;
  return config;
}

TEST_F(Golden, DitPredictsAsTheReference) {
  const torch::NoGradGuard guard;
  WanDit dit(tiny_dit());
  load_weights(*dit, read("dit_tiny.safetensors"), "dit_tiny");
  TensorMap io = read("dit_tiny_io.safetensors");
  for (const auto& [name, samples] :
       std::vector<std::pair<std::string, int>>{{"b1", 1}, {"b2", 2}, {"ragged", 2}}) {
    for (int i = 0; i < samples; ++i) {
      const Tensor x = io[name + ".x" + std::to_string(i)].unsqueeze(0);
      const Tensor text = io[name + ".context" + std::to_string(i)].unsqueeze(0).unsqueeze(0);
      const FilmLayout layout{x.size(2), x.size(3) / 2, x.size(4) / 2};
      const DitPlan plan = plan_dit({layout}, GlobalText::kNone, dit->config(), torch::kCPU);
      const Tensor out = dit->forward(x, io[name + ".t"].slice(0, i, i + 1), text, plan);
      EXPECT_LT(max_error(out[0], io[name + ".out" + std::to_string(i)]), 1e-4) << name << " " << i;
    }
  }
}

TEST_F(Golden, RopeAndSinusoidsAtRealSize) {
  TensorMap io = read("dit_tiny_io.safetensors");
  const RopeTable table = rope_table({3, 4, 5}, 128, torch::kFloat64, torch::kCPU);
  EXPECT_LT(
      max_error(apply_rope(io["rope128.x"].slice(1, 0, 60).to(torch::kFloat64), table).to(torch::kFloat32),
                io["rope128.out"].slice(1, 0, 60)),
      1e-5);
  EXPECT_LT(
      max_error(sinusoidal_embedding(io["sinusoid256.t"], 256).to(torch::kFloat32), io["sinusoid256.out"]),
      1e-6);
}

TEST_F(Golden, VaeWholeAndStreaming) {
  const torch::NoGradGuard guard;
  TensorMap io = read("vae_tiny_io.safetensors");
  VaeConfig config;
  config.dim = 8;
  const auto values = [&](const std::string& name) {
    const Tensor wide = io[name].to(torch::kFloat64);
    return std::vector<double>(wide.data_ptr<double>(), wide.data_ptr<double>() + wide.numel());
  };
  config.latents_mean = values("latents_mean");
  config.latents_std = values("latents_std");
  WanVae vae(config);
  load_weights(*vae, read("vae_tiny.safetensors"), "vae_tiny");
  for (const std::string name : {"t1", "t9", "t13"}) {
    const Tensor video = io[name + ".video"].unsqueeze(0);
    EXPECT_LT(max_error(vae->encode_moments(video).first[0], io[name + ".mu"]), 1e-4) << name;
    const Tensor z = vae->encode(video);
    EXPECT_LT(max_error(z[0], io[name + ".z"]), 1e-4) << name;
    EXPECT_LT(max_error(vae->decode(io[name + ".z"].unsqueeze(0))[0], io[name + ".recon"]), 1e-4) << name;
    EXPECT_LT(max_error(vae->decode(io[name + ".rand_z"].unsqueeze(0))[0], io[name + ".rand_dec"]), 1e-4)
        << name;

    // Pieces of any size give the whole.
    VaeDecodeStream decoder(vae);
    std::vector<Tensor> pieces;
    const int64_t latents = z.size(2);
    for (int64_t at = 0, step = 1; at < latents; at += step, step = 2) {
      pieces.push_back(
          decoder.next(io[name + ".rand_z"].unsqueeze(0).slice(2, at, std::min(latents, at + step))));
    }
    EXPECT_LT(max_error(torch::cat(pieces, 2)[0], io[name + ".rand_dec"]), 1e-4) << name;
    VaeEncodeStream encoder(vae);
    pieces.clear();
    for (int64_t at = 0, step = 1; at < video.size(2); at += step, step = 4) {
      pieces.push_back(encoder.next(video.slice(2, at, at + step)));
    }
    EXPECT_LT(max_error(torch::cat(pieces, 2), z), 1e-4) << name;
  }
}

TEST_F(Golden, TextEncoder) {
  const torch::NoGradGuard guard;
  TensorMap io = read("t5_tiny_io.safetensors");
  TextEncoderConfig config;
  config.vocab_size = 96;
  config.dim = 32;
  config.dim_attn = 48;
  config.dim_ffn = 80;
  config.heads = 4;
  config.layers = 3;
  UmT5 encoder(config);
  load_weights(*encoder, read("t5_tiny.safetensors"), "t5_tiny");
  for (const std::string name : {"short", "long"}) {
    EXPECT_LT(max_error(encoder->forward(io[name + ".ids"], io[name + ".mask"]), io[name + ".out"]), 1e-4)
        << name;
  }
  EXPECT_TRUE(relative_position_bucket(io["bucket.rel"], 32, 128).equal(io["bucket.index"]));
}

TEST(Weights, MisfitsAreListed) {
  WanDit dit(tiny_dit());
  TensorMap weights = module_weights(*dit);
  weights.erase("head.modulation");
  weights["extra"] = torch::zeros({1});
  weights["patch_embedding.bias"] = torch::zeros({3});
  try {
    load_weights(*dit, weights, "file");
    FAIL() << "no error";
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("missing head.modulation"), std::string::npos) << text;
    EXPECT_NE(text.find("unexpected extra"), std::string::npos) << text;
    EXPECT_NE(text.find("patch_embedding.bias is [3], expected [64]"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace moga
