// Published layouts through the command line: random weights in Wan's layout are inspected, generated with,
// converted to groups and back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/atomic_file.h"
#include "io/checkpoint.h"
#include "io/safetensors.h"
#include "model/model_folder.h"

namespace moga {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class Models : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    path_ = fs::path(testing::TempDir()) / fmt::format("moga_models_{}", ::getpid());
    fs::create_directories(path_);
    ASSERT_EQ(moga("random-model toy -o " + at("wan") +
                   " --tokenizer " MOGA_SOURCE_DIR "/assets/toy/tokenizer.model"),
              0)
        << errors();
    write_file_atomic(path_ / "script.yaml",
                      "size: 64x48\nfps: 8\nseed: 3\nshots:\n  - {prompt: Mia stands., frames: 5}\n");
  }
  static void TearDownTestSuite() { fs::remove_all(path_); }
  static std::string at(const std::string& name) { return "\"" + (path_ / name).string() + "\""; }
  static int moga(const std::string& arguments) {
    const std::string command =
        "\"" MOGA_BINARY_DIR "/bin/moga\" " + arguments + " > " + at("out.txt") + " 2> " + at("err.txt");
    return WEXITSTATUS(std::system(command.c_str()));
  }
  static std::string output() { return read_file(path_ / "out.txt"); }
  static std::string errors() { return read_file(path_ / "err.txt"); }

  // Same names, dtypes and bits, but for the names that contain `without`.
  static void expect_same(const fs::path& a, const fs::path& b, const std::string& without = "\n") {
    const Checkpoint first(a);
    const Checkpoint second(b);
    size_t compared = 0;
    for (const auto& [name, info] : second.tensors()) {
      if (name.find(without) == std::string::npos) {
        ASSERT_EQ(first.tensors().count(name), 1U) << name;
        EXPECT_EQ(first.tensors().at(name).stored, info.stored) << name;
        EXPECT_TRUE(first.read(name).equal(second.read(name))) << name;
        ++compared;
      }
    }
    EXPECT_EQ(compared, first.tensors().size());
  }

  static fs::path path_;
};
fs::path Models::path_;

TEST_F(Models, GenerateTakesThemWithAdapters) {
  // A single file with its companions elsewhere, an adapter of strength 0 and one of strength 1.
  const DitConfig dit = ModelFolder(path_ / "wan").config().dit;
  write_safetensors(path_ / "lora.safetensors",
                    {{"transformer.blocks.0.attn1.to_q.lora_A.weight", torch::ones({2, dit.dim})},
                     {"transformer.blocks.0.attn1.to_q.lora_B.weight", torch::ones({dit.dim, 2})},
                     {"transformer.blocks.99.attn1.to_q.lora_A.weight", torch::ones({2, dit.dim})}});
  fs::create_directories(path_ / "single");
  fs::copy_file(path_ / "wan/diffusion_pytorch_model.safetensors", path_ / "single/dit.safetensors");
  fs::copy_file(path_ / "wan/config.json", path_ / "single/config.json");
  const std::string start = "generate " + at("script.yaml") + " --steps 1 --keep-latents --prompt-cache '' ";
  const std::string parts = " --vae " + at("wan/Wan2.1_VAE.safetensors") + " --text-encoder " +
                            at("wan/models_t5_umt5-xxl-enc-bf16.safetensors") + " --tokenizer " +
                            at("wan/google/umt5-xxl");
  const auto film = [&](const std::string& name, const std::string& arguments) {
    EXPECT_EQ(moga(start + "-o " + at(name + ".mp4") + arguments), 0) << errors();
    return SafetensorsFile(path_ / (name + ".latents.safetensors")).read("latent");
  };
  const torch::Tensor plain = film("plain", " --model " + at("wan"));
  EXPECT_TRUE(film("single", " --model " + at("single/dit.safetensors") + parts).equal(plain));
  EXPECT_TRUE(
      film("none", " --model " + at("wan") + " --lora " + at("lora.safetensors") + ":0").equal(plain));
  EXPECT_THAT(errors(), HasSubstr("1 tensors fit nothing in the transformer"));
  EXPECT_FALSE(film("one", " --model " + at("wan") + " --lora " + at("lora.safetensors")).equal(plain));
  EXPECT_EQ(moga(start + "-o " + at("x.mp4") + " --model " + at("wan") + " --lora " + at("lora.safetensors") +
                 ":x"),
            2);
  EXPECT_EQ(moga(start + "-o " + at("x.mp4") + " --model " + at("single/dit.safetensors")), 2);
  EXPECT_THAT(errors(), HasSubstr("lacks the vae, the text encoder, the tokenizer"));
}

TEST_F(Models, ConversionKeepsTheWeightsAndStartsCloser) {
  ASSERT_EQ(moga("convert " + at("wan") + " -o " + at("moga") +
                 " --groups 3 --windows 2x2 --router kmeans --calibration toy --size 64x48 --frames 9 "
                 "--clips 2 --json"),
            0)
      << errors();
  const auto report = nlohmann::json::parse(output());
  EXPECT_EQ(report["kmeans"]["blocks"].size(), 8U);
  EXPECT_GT(report["kmeans"]["top_probability"].get<double>(), 0.85);
  EXPECT_LT(report["random"]["top_probability"].get<double>(), 0.7);
  double random = 0;
  double kmeans = 0;
  for (size_t i = 0; i < 8; ++i) {
    random += report["random"]["blocks"][i].get<double>();
    kmeans += report["kmeans"]["blocks"][i].get<double>();
  }
  EXPECT_LT(kmeans, random);
  const ModelFolder model(path_ / "moga");
  EXPECT_EQ(model.config().dit.attention.groups, 3);
  EXPECT_EQ(model.config().dit.attention.kind, AttentionKind::kMoga);
  expect_same(path_ / "wan/diffusion_pytorch_model.safetensors", path_ / "moga/dit.safetensors", ".router.");
  EXPECT_EQ(moga("generate " + at("script.yaml") + " --steps 1 --prompt-cache '' -o " + at("m.mp4") +
                 " --model " + at("moga")),
            0)
      << errors();

  // And back, under official names and others'.
  ASSERT_EQ(moga("convert " + at("moga") + " -o " + at("back") + " --to wan"), 0) << errors();
  expect_same(path_ / "wan/diffusion_pytorch_model.safetensors",
              path_ / "back/diffusion_pytorch_model.safetensors");
  expect_same(path_ / "wan/Wan2.1_VAE.safetensors", path_ / "back/Wan2.1_VAE.safetensors");
  EXPECT_EQ(read_file(path_ / "wan/config.json"), read_file(path_ / "back/config.json"));
  ASSERT_EQ(moga("convert " + at("moga") + " -o " + at("other") + " --to diffusers"), 0) << errors();
  ASSERT_EQ(moga("inspect " + at("other") + " --json"), 0) << errors();
  const auto facts = nlohmann::json::parse(output());
  EXPECT_EQ(facts["layout"], "diffusers folder");
  ASSERT_EQ(facts["parts"].size(), 3U);
  for (const auto& part : facts["parts"]) {
    EXPECT_EQ(part["naming"], "diffusers");
    EXPECT_TRUE(part["fits"]);
  }
  ASSERT_EQ(moga("convert " + at("other") + " -o " + at("again") + " --to wan"), 0) << errors();
  for (const char* file : {"diffusion_pytorch_model.safetensors", "Wan2.1_VAE.safetensors",
                           "models_t5_umt5-xxl-enc-bf16.safetensors"}) {
    expect_same(path_ / "wan" / file, path_ / "again" / file);
  }
}

TEST_F(Models, OtherCommandsTakeThemToo) {
  EXPECT_EQ(moga("plan --no-measure --frames 5 --size 64x48 --model " + at("wan")), 0) << errors();
  EXPECT_THAT(output(), HasSubstr("transformer"));
  EXPECT_EQ(moga("inspect " + at("wan")), 0) << errors();
  EXPECT_THAT(output(), HasSubstr("a model: wan folder"));
  EXPECT_EQ(moga("inspect " + at("wan/config.json")), 2);
  EXPECT_EQ(moga("inspect " + at("nowhere")), 2);
}

}  // namespace
}  // namespace moga
