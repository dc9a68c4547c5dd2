// That the modules compute what the reference does is tests/golden_test.cc's business.
#include <gtest/gtest.h>

#include "base/error.h"
#include "model/wan_dit.h"
#include "model/weights.h"

namespace moga {
namespace {

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
