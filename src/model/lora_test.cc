#include "model/lora.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/error.h"
#include "io/safetensors.h"

namespace moga {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using torch::Tensor;

const ShapeMap kDit = {{"blocks.0.self_attn.q.weight", {6, 4}},  {"blocks.0.self_attn.q.bias", {6}},
                       {"blocks.1.cross_attn.o.weight", {6, 4}}, {"blocks.1.cross_attn.o.bias", {6}},
                       {"blocks.1.ffn.0.weight", {6, 4}},        {"patch_embedding.weight", {6, 2, 1, 2, 2}}};

class Lora : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / fmt::format("moga_lora_{}", ::getpid());
    fs::create_directories(folder_);
    torch::manual_seed(4);
    down_ = torch::randn({2, 4});
    up_ = torch::randn({6, 2});
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path write(const std::string& name, const TensorMap& tensors) const {
    write_safetensors(folder_ / name, tensors);
    return folder_ / name;
  }
  // What a file with strength 1 adds to a weight.
  static Tensor added(const std::vector<LoraChoice>& choices, const std::string& official) {
    const LoraSet set(choices, kDit);
    EXPECT_TRUE(set.changes(official)) << official;
    Tensor weight = torch::zeros(kDit.at(official));
    set.add_to(official, weight);
    return weight;
  }

  fs::path folder_;
  Tensor down_, up_;
};

TEST_F(Lora, FourStylesOfKeysMeanTheSame) {
  struct Style {
    const char* down;
    const char* up;
  };
  const Tensor expected = torch::mm(up_, down_);
  for (const Style& style :
       {Style{"diffusion_model.blocks.1.cross_attn.o.lora_A.weight",
              "diffusion_model.blocks.1.cross_attn.o.lora_B.weight"},
        Style{"lora_unet_blocks_1_cross_attn_o.lora_down.weight",
              "lora_unet_blocks_1_cross_attn_o.lora_up.weight"},
        Style{"transformer.blocks.1.attn2.to_out.0.lora_A.weight",
              "transformer.blocks.1.attn2.to_out.0.lora_B.weight"},
        Style{"blocks.1.cross_attn.o.lora_A.default.weight", "blocks.1.cross_attn.o.lora_B.default.weight"},
        Style{"base_model.model.blocks.1.cross_attn.o.lora_A.default.weight",
              "base_model.model.blocks.1.cross_attn.o.lora_B.default.weight"},
        Style{"lora_unet_blocks_1_attn2_to_out_0.lora_down.weight",
              "lora_unet_blocks_1_attn2_to_out_0.lora_up.weight"}}) {
    const fs::path file = write("a.safetensors", {{style.down, down_}, {style.up, up_}});
    const Tensor delta = added({{file}}, "blocks.1.cross_attn.o.weight");
    EXPECT_LT((delta - expected).abs().max().item<double>(), 1e-6) << style.down;
    EXPECT_FALSE(LoraSet({{file}}, kDit).changes("blocks.0.self_attn.q.weight"));
  }
}

TEST_F(Lora, AlphaAndStrengthScaleAndSeveralFilesAddUp) {
  const std::string module = "lora_unet_blocks_0_self_attn_q.";
  const fs::path a = write("a.safetensors", {{module + "lora_down.weight", down_.to(torch::kFloat16)},
                                             {module + "lora_up.weight", up_.to(torch::kFloat16)},
                                             {module + "alpha", torch::tensor(1.0)}});
  const fs::path b = write("b.safetensors", {{"diffusion_model.blocks.0.self_attn.q.lora_A.weight", down_},
                                             {"diffusion_model.blocks.0.self_attn.q.lora_B.weight", up_}});
  // alpha / rank = 1 / 2.
  const Tensor product = torch::mm(up_, down_);
  const Tensor delta = added({{a, 0.8}, {b, -0.5}}, "blocks.0.self_attn.q.weight");
  EXPECT_LT((delta - product * (0.8 / 2 - 0.5)).abs().max().item<double>(), 5e-3);
}

TEST_F(Lora, ConvolutionsAndWholeDifferences) {
  const Tensor conv_down = torch::randn({3, 2, 1, 2, 2});
  const Tensor conv_up = torch::randn({6, 3, 1, 1, 1});
  const Tensor bias = torch::randn({6});
  const fs::path file =
      write("a.safetensors", {{"diffusion_model.patch_embedding.lora_down.weight", conv_down},
                              {"diffusion_model.patch_embedding.lora_up.weight", conv_up},
                              {"diffusion_model.blocks.0.self_attn.q.diff_b", bias}});
  const Tensor delta = added({{file, 2}}, "patch_embedding.weight");
  EXPECT_LT((delta - 2 * torch::mm(conv_up.flatten(1), conv_down.flatten(1)).view({6, 2, 1, 2, 2}))
                .abs()
                .max()
                .item<double>(),
            1e-5);
  EXPECT_TRUE(added({{file, 2}}, "blocks.0.self_attn.q.bias").equal(2 * bias));
}

TEST_F(Lora, WhatFitsNothingIsReported) {
  const fs::path file = write("a.safetensors", {{"diffusion_model.blocks.0.self_attn.q.lora_A.weight", down_},
                                                {"diffusion_model.blocks.0.self_attn.q.lora_B.weight", up_},
                                                {"diffusion_model.blocks.7.self_attn.q.lora_A.weight", down_},
                                                {"diffusion_model.blocks.1.ffn.0.lora_A.weight", down_},
                                                {"text_encoder.x", up_}});
  const LoraFile lora({file}, kDit);
  EXPECT_EQ(lora.changes.size(), 1U);
  EXPECT_EQ(lora.rank(), 2);
  EXPECT_THAT(lora.unmatched, testing::UnorderedElementsAre(
                                  "diffusion_model.blocks.7.self_attn.q.lora_A.weight",
                                  "diffusion_model.blocks.1.ffn.0.lora_A.weight", "text_encoder.x"));
}

TEST_F(Lora, FilesForOtherModelsAreRefused) {
  const auto message = [](const fs::path& file) -> std::string {
    try {
      const LoraFile lora({file}, kDit);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_THAT(message(write("a.safetensors", {{"x.lora_A.weight", down_}, {"x.lora_B.weight", up_}})),
              HasSubstr("none of its 2 tensors is an adapter"));
  EXPECT_THAT(message(write("b.safetensors", {{"blocks.0.self_attn.q.lora_A.weight", torch::ones({2, 5})},
                                              {"blocks.0.self_attn.q.lora_B.weight", up_}})),
              HasSubstr("do not fit the weight blocks.0.self_attn.q.weight [6, 4]"));
}

TEST_F(Lora, ChoicesOnTheCommandLine) {
  const std::string file = write("a.safetensors", {{"x", down_}}).string();
  EXPECT_EQ(parse_lora_choice(file).strength, 1);
  EXPECT_EQ(parse_lora_choice(file + ":0.75").strength, 0.75);
  EXPECT_EQ(parse_lora_choice(file + ":-1").file, file);
  EXPECT_THROW(parse_lora_choice(file + ":much"), Error);
  EXPECT_THROW(parse_lora_choice("/nowhere.safetensors:1"), Error);
}

}  // namespace
}  // namespace moga
