// Models in every layout that people have, made of the golden data's tiny networks.
#include "model/model_folder.h"

#include <caffe2/serialize/inline_container.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "base/atomic_file.h"
#include "base/error.h"
#include "io/safetensors.h"
#include "model/fixtures_test_util.h"
#include "model/inspect.h"

namespace moga {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using torch::Tensor;

const torch::Device kCpu(torch::kCPU);

// The tiny networks' config.json, as the official folder has it.
constexpr const char* kWanConfig = R"({
  "_class_name": "WanModel", "dim": 64, "eps": 1e-06, "ffn_dim": 144, "freq_dim": 32, "in_dim": 16,
  "model_type": "t2v", "num_heads": 4, "num_layers": 2, "out_dim": 16, "text_len": 16
})";

class Layouts : public testing::Test {
 protected:
  void SetUp() override {
    fixtures_ = wan_fixtures();
    if (!fs::exists(fixtures_ / "dit_tiny.safetensors")) {
      GTEST_SKIP() << "no golden data in " << fixtures_;
    }
    folder_ = fs::path(testing::TempDir()) / fmt::format("moga_layouts_{}", ::getpid());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  TensorMap read(const std::string& name) const { return SafetensorsFile(fixtures_ / name).read_all(); }
  fs::path file(const std::string& name) const { return folder_ / name; }
  void write(const std::string& name, const TensorMap& tensors) const {
    write_safetensors(file(name), tensors);
  }
  // Under the names of another program, with something in front.
  void write_named(const std::string& name, const TensorMap& tensors, PartKind part, Naming naming,
                   const std::string& prefix = "") const {
    TensorMap renamed;
    for (const auto& [official, tensor] : tensors) {
      renamed[prefix + name_in(naming, part, official)] = tensor;
    }
    write(name, renamed);
  }
  void write_text(const std::string& name, const std::string& text) const {
    write_file_atomic(file(name), text);
  }
  static std::string message_of(const std::function<void()>& action) {
    try {
      action();
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }
  // Every tensor of the module is what the golden file has under the official name.
  static void expect_weights(const torch::nn::Module& module, const TensorMap& expected) {
    const TensorMap found = module_weights(module);
    ASSERT_EQ(found.size(), expected.size());
    for (const auto& [name, tensor] : expected) {
      EXPECT_TRUE(found.at(name).equal(tensor.to(torch::kFloat32))) << name;
    }
  }
  void expect_all_parts(const ModelSource& source, ModelLayout layout) const {
    const ModelFolder model(source);
    EXPECT_EQ(model.layout(), layout);
    EXPECT_EQ(model.config().dit.dim, 64);
    EXPECT_EQ(model.config().dit.text_dim, 40);
    EXPECT_EQ(model.config().vae.dim, 8);
    EXPECT_EQ(model.config().vae.latents_std, wan_latents_std());
    EXPECT_EQ(model.config().text.vocab_size, 96);
    EXPECT_EQ(model.config().text.dim_attn, 48);
    EXPECT_EQ(model.config().dit.attention.kind, AttentionKind::kFull);
    expect_weights(*model.load_dit(kCpu), read("dit_tiny.safetensors"));
    expect_weights(*model.load_vae(kCpu), read("vae_tiny.safetensors"));
    expect_weights(*model.load_text(kCpu), read("t5_tiny.safetensors"));
    EXPECT_FALSE(model.parts().tokenizer.empty());
    model.check_complete();
  }

  fs::path fixtures_;
  fs::path folder_;
};

void put(std::string& bytes, uint64_t value, int count) {
  for (int i = 0; i < count; ++i) {
    bytes += static_cast<char>(value >> (8 * i));
  }
}

// A .pth as torch.save writes it (pickle protocol 2).
void write_pth(const fs::path& path, const TensorMap& tensors) {
  caffe2::serialize::PyTorchStreamWriter writer(path.string());
  std::string pickle =
      "\x80\x02"
      "ccollections\nOrderedDict\n)R(";
  const auto text = [&](const std::string& value) {
    pickle += 'X';
    put(pickle, value.size(), 4);
    pickle += value;
  };
  const auto integer = [&](int64_t value) {
    pickle += 'J';
    put(pickle, static_cast<uint64_t>(value), 4);
  };
  int key = 0;
  for (const auto& [name, tensor] : tensors) {
    const std::string storage = std::to_string(key++);
    text(name);
    pickle += "ctorch._utils\n_rebuild_tensor_v2\n((";
    text("storage");
    pickle +=
        tensor.scalar_type() == torch::kBFloat16 ? "ctorch\nBFloat16Storage\n" : "ctorch\nFloatStorage\n";
    text(storage);
    text("cpu");
    integer(tensor.numel());
    pickle += "tQ";
    integer(0);
    for (const torch::IntArrayRef list : {tensor.sizes(), tensor.strides()}) {
      pickle += '(';
      for (const int64_t size : list) {
        integer(size);
      }
      pickle += 't';
    }
    pickle +=
        "\x89"
        "ccollections\nOrderedDict\n)RtR";
    writer.writeRecord("data/" + storage, tensor.data_ptr(),
                       static_cast<size_t>(tensor.numel() * tensor.element_size()));
  }
  pickle += "u.";
  writer.writeRecord("data.pkl", pickle.data(), pickle.size());
  writer.writeEndOfFile();
}

TEST_F(Layouts, TheOfficialFolder) {
  write("diffusion_pytorch_model.safetensors", read("dit_tiny.safetensors"));
  write_text("config.json", kWanConfig);
  write_pth(file("Wan2.1_VAE.pth"), read("vae_tiny.safetensors"));
  write_pth(file("models_t5_umt5-xxl-enc-bf16.pth"), read("t5_tiny.safetensors"));
  write_text("google/umt5-xxl/spiece.model", "a tokenizer");
  expect_all_parts(folder_, ModelLayout::kWan);
  EXPECT_EQ(ModelFolder(folder_).config().dit.text_len, 16);
}

TEST_F(Layouts, TheDiffusersFolder) {
  for (const auto& entry : fs::recursive_directory_iterator(fixtures_ / "diffusers_layout_tiny")) {
    if (entry.is_regular_file()) {
      const fs::path to = file(fs::relative(entry.path(), fixtures_ / "diffusers_layout_tiny").string());
      fs::create_directories(to.parent_path());
      fs::copy_file(entry.path(), to);
    }
  }
  write_text("model_index.json", "{}");
  write_named("vae/diffusion_pytorch_model.safetensors", read("vae_tiny.safetensors"), PartKind::kVae,
              Naming::kDiffusers);
  write_named("text_encoder/model.safetensors", read("t5_tiny.safetensors"), PartKind::kText,
              Naming::kDiffusers);
  write_text("tokenizer/spiece.model", "a tokenizer");
  const ModelFolder model(folder_);
  EXPECT_EQ(model.layout(), ModelLayout::kDiffusers);
  // Two shards in bfloat16: exactly the rounded weights, under official names.
  TensorMap rounded = read("dit_tiny.safetensors");
  for (auto& entry : rounded) {
    entry.second = entry.second.to(torch::kBFloat16);
  }
  expect_weights(*model.load_dit(kCpu), rounded);
  expect_weights(*model.load_vae(kCpu), read("vae_tiny.safetensors"));
  expect_weights(*model.load_text(kCpu), read("t5_tiny.safetensors"));
  // The same weights as one unsharded file.
  fs::remove_all(file("transformer"));
  fs::create_directories(file("transformer"));
  fs::copy_file(fixtures_ / "dit_tiny_diffusers.safetensors",
                file("transformer/diffusion_pytorch_model.safetensors"));
  fs::copy_file(fixtures_ / "diffusers_layout_tiny/transformer/config.json", file("transformer/config.json"));
  expect_all_parts(folder_, ModelLayout::kDiffusers);
}

TEST_F(Layouts, OneFileWithAPrefixAndItsCompanions) {
  write_named("diffusion_models/model.safetensors", read("dit_tiny.safetensors"), PartKind::kDit,
              Naming::kWan, "diffusion_model.");
  write_text("diffusion_models/config.json", kWanConfig);
  write("vae/wan_vae.safetensors", read("vae_tiny.safetensors"));
  write_named("text_encoders/umt5.safetensors", read("t5_tiny.safetensors"), PartKind::kText,
              Naming::kDiffusers);
  write_text("text_encoders/spiece.model", "a tokenizer");
  expect_all_parts(file("diffusion_models/model.safetensors"), ModelLayout::kSingleFile);

  // Elsewhere, the parts are named by options.
  fs::create_directories(file("far/b"));
  fs::rename(file("vae/wan_vae.safetensors"), file("far/b/v.safetensors"));
  EXPECT_THAT(message_of([&] { ModelFolder(file("diffusion_models/model.safetensors")).load_vae(kCpu); }),
              HasSubstr("lacks the vae; name its file with --vae"));
  ModelSource source(file("diffusion_models/model.safetensors"));
  source.vae = file("far/b/v.safetensors");
  expect_all_parts(source, ModelLayout::kSingleFile);
  source.vae = file("text_encoders/umt5.safetensors");
  EXPECT_THAT(message_of([&] { ModelFolder{source}; }), HasSubstr("holds no weights of a Wan vae"));
  EXPECT_THAT(message_of([&] { ModelFolder{file("far/b/v.safetensors")}; }),
              HasSubstr("expected a Wan transformer's weights, found a vae"));
}

TEST_F(Layouts, TwoCandidatesAreNamed) {
  write("a.safetensors", read("dit_tiny.safetensors"));
  write("b.safetensors", read("dit_tiny.safetensors"));
  EXPECT_THAT(message_of([&] { ModelFolder{folder_}; }), HasSubstr("a.safetensors, b.safetensors; name one"));
  EXPECT_EQ(ModelFolder(file("b.safetensors")).config().dit.layers, 2);
}

TEST_F(Layouts, WhatIsWrongIsSaid) {
  EXPECT_THAT(message_of([&] { ModelFolder{folder_}; }), HasSubstr("holds no model"));
  EXPECT_THAT(message_of([&] { ModelFolder{file("none")}; }), HasSubstr("no model at"));
  write("m.safetensors", read("dit_tiny.safetensors"));
  write_text("config.json", R"({"dim": 128})");
  EXPECT_THAT(message_of([&] { ModelFolder{folder_}; }),
              HasSubstr("dim is 128, but the weights beside it have 64"));
  write_text("config.json", kWanConfig);
  const MogaConfig moga;
  EXPECT_THAT(message_of([&] { ModelFolder(folder_).load_dit(kCpu, &moga); }), HasSubstr("`moga convert`"));
  TensorMap damaged = read("dit_tiny.safetensors");
  damaged.erase("blocks.1.ffn.2.bias");
  write("m.safetensors", damaged);
  EXPECT_THAT(message_of([&] { ModelFolder(folder_).load_dit(kCpu); }),
              HasSubstr("missing blocks.1.ffn.2.bias"));
  TensorMap image = read("dit_tiny.safetensors");
  image["blocks.0.cross_attn.k_img.weight"] = torch::zeros({64, 64});
  write("m.safetensors", image);
  EXPECT_THAT(message_of([&] { ModelFolder{folder_}; }), HasSubstr("image-to-video"));
}

TEST_F(Layouts, AdaptersAreMergedAndChangeTheFingerprint) {
  write("m.safetensors", read("dit_tiny.safetensors"));
  write_text("config.json", kWanConfig);
  const Tensor down = torch::randn({3, 64});
  const Tensor up = torch::randn({64, 3});
  write_safetensors(file("loras/l.safetensors"),
                    {{"diffusion_model.blocks.1.self_attn.v.lora_A.weight", down},
                     {"diffusion_model.blocks.1.self_attn.v.lora_B.weight", up}});
  ModelSource source(folder_);
  source.loras = {{file("loras/l.safetensors"), 0.5}};
  TensorMap expected = read("dit_tiny.safetensors");
  expected["blocks.1.self_attn.v.weight"] += 0.5 * torch::mm(up, down);
  const TensorMap found = module_weights(*ModelFolder(source).load_dit(kCpu));
  for (const auto& [name, tensor] : expected) {
    EXPECT_LT((found.at(name) - tensor).abs().max().item<double>(), 1e-5) << name;
  }
  EXPECT_NE(ModelFolder(source).fingerprint(), ModelFolder(folder_).fingerprint());
  EXPECT_EQ(ModelFolder(source).vae_fingerprint(), ModelFolder(folder_).vae_fingerprint());
}

// bfloat16 where the reference computes in it, float32 where it does not, and close to float32 in the end.
TEST_F(Layouts, NarrowWeights) {
  const torch::NoGradGuard guard;
  write("m.safetensors", read("dit_tiny.safetensors"));
  write_text("config.json", kWanConfig);
  ModelSource source(folder_);
  source.precision = Precision::kBf16;
  WanDit dit = ModelFolder(source).load_dit(kCpu);
  const auto parameters = dit->named_parameters();
  const auto dtype = [&](const std::string& name) { return parameters[name].scalar_type(); };
  for (const char* name : {"blocks.0.self_attn.q.weight", "blocks.1.cross_attn.o.bias",
                           "blocks.0.ffn.2.weight", "text_embedding.0.weight"}) {
    EXPECT_EQ(dtype(name), torch::kBFloat16) << name;
  }
  for (const char* name : {"time_embedding.0.weight", "time_projection.1.bias", "head.head.weight",
                           "head.modulation", "blocks.0.modulation", "blocks.0.norm3.weight",
                           "blocks.0.self_attn.norm_q.weight", "patch_embedding.weight"}) {
    EXPECT_EQ(dtype(name), torch::kFloat32) << name;
  }
  TensorMap io = read("dit_tiny_io.safetensors");
  const Tensor x = io["b1.x0"].unsqueeze(0);
  const DitPlan plan =
      plan_dit({{x.size(2), x.size(3) / 2, x.size(4) / 2}}, GlobalText::kNone, dit->config(), kCpu);
  const Tensor out = dit->forward(x, io["b1.t"], io["b1.context0"].unsqueeze(0).unsqueeze(0), plan);
  const double error = ((out[0] - io["b1.out0"]).norm() / io["b1.out0"].norm()).item<double>();
  EXPECT_GT(error, 1e-5);  // it was rounded
  EXPECT_LT(error, 0.02);
}

int64_t status_kib(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(key + ":")) {
      return std::stoll(line.substr(key.size() + 1));
    }
  }
  return 0;
}

TEST(LoadingMemory, PeaksBelowTheModelAndFivePerCent) {
  std::ofstream reset("/proc/self/clear_refs");
  reset << 5 << std::flush;  // sets the peak back to what is in use now
  if (!reset) {
    GTEST_SKIP() << "this system cannot reset the peak of a process's memory";
  }
  const fs::path folder = fs::path(testing::TempDir()) / fmt::format("moga_memory_{}", ::getpid());
  DitConfig config;
  config.dim = 1024;
  config.ffn_dim = 4096;
  config.heads = 8;
  config.layers = 10;
  config.attention.kind = AttentionKind::kFull;
  std::vector<TensorToWrite> tensors;
  size_t bytes = 0;
  {
    const BareWeights bare;
    for (const auto& [name, shape] : module_shapes(*WanDit(config))) {
      tensors.push_back({name, torch::kBFloat16, shape});
      bytes += 2 * static_cast<size_t>(c10::multiply_integers(shape));
      bytes += stays_float32(name) ? 2 * static_cast<size_t>(c10::multiply_integers(shape)) : 0;
    }
  }
  ShapeMap shapes;
  for (const auto& tensor : tensors) {
    shapes[tensor.name] = tensor.shape;
  }
  write_safetensors(folder / "m.safetensors", tensors, [&](const std::string& name) {
    return torch::full(shapes.at(name), 0.5, torch::kBFloat16);
  });
  const ModelFolder model(folder);
  reset << 5 << std::flush;
  const int64_t before = status_kib("VmRSS");
  const WanDit dit = model.load_dit(kCpu);
  const double grown = static_cast<double>(status_kib("VmHWM") - before) * 1024;
  fs::remove_all(folder);
  EXPECT_GT(bytes, 300U << 20U);
  EXPECT_LT(grown, 1.05 * static_cast<double>(bytes));
  EXPECT_GT(grown, 0.9 * static_cast<double>(bytes));  // it was this load that was measured
}

TEST_F(Layouts, InspectSaysWhatAFileIs) {
  write_named("m.safetensors", read("dit_tiny.safetensors"), PartKind::kDit, Naming::kDiffusers,
              "diffusion_model.");
  const auto facts = inspect_checkpoint(file("m.safetensors"));
  EXPECT_EQ(facts["part"], "transformer");
  EXPECT_EQ(facts["naming"], "diffusers");
  EXPECT_EQ(facts["prefix"], "diffusion_model.");
  EXPECT_EQ(facts["format"], "safetensors");
  EXPECT_EQ(facts["count"], 69);
  EXPECT_EQ(facts["dtypes"]["F32"], 69);
  EXPECT_EQ(facts["config"]["ffn_dim"], 144);
  EXPECT_TRUE(facts["fits"]);
  for (const auto& tensor : facts["tensors"]) {
    if (tensor["name"] == "diffusion_model.blocks.1.attn2.to_out.0.bias") {
      EXPECT_EQ(tensor["official"], "blocks.1.cross_attn.o.bias");
    }
  }
  const std::string text = describe_checkpoint(facts);
  EXPECT_THAT(text, HasSubstr("weights of a Wan transformer, diffusers names"));
  EXPECT_THAT(text, HasSubstr("2 x diffusion_model.blocks.*.attn1.to_q.weight"));
  EXPECT_THAT(text, HasSubstr("= blocks.*.self_attn.q.weight"));

  TensorMap damaged = read("vae_tiny.safetensors");
  damaged.erase("encoder.head.2.bias");
  damaged["more"] = torch::ones({1});
  damaged["conv1.bias"] = torch::ones({3});
  write("v.safetensors", damaged);
  const auto misfit = inspect_checkpoint(file("v.safetensors"));
  EXPECT_FALSE(misfit["fits"]);
  EXPECT_EQ(misfit["missing"], nlohmann::ordered_json({"encoder.head.2.bias"}));
  EXPECT_EQ(misfit["unexpected"], nlohmann::ordered_json({"more"}));
  EXPECT_EQ(misfit["reshaped"][0]["name"], "conv1.bias");
  EXPECT_THAT(describe_checkpoint(misfit), HasSubstr("conv1.bias is [3], expected [32]"));
  write("other.safetensors", {{"a", torch::ones({2})}});
  EXPECT_THAT(inspect_checkpoint(file("other.safetensors"))["what"].get<std::string>(),
              HasSubstr("no part of"));
}

TEST_F(Layouts, InspectSaysWhatAFolderAndAnAdapterAre) {
  write("diffusion_pytorch_model.safetensors", read("dit_tiny.safetensors"));
  write_text("config.json", kWanConfig);
  write_pth(file("Wan2.1_VAE.pth"), read("vae_tiny.safetensors"));
  const auto facts = inspect_checkpoint(folder_);
  EXPECT_EQ(facts["layout"], "wan folder");
  EXPECT_EQ(facts["parts"].size(), 2U);
  EXPECT_EQ(facts["config"]["dit"]["heads"], 4);
  EXPECT_TRUE(facts["tokenizer"].is_null());
  EXPECT_THAT(describe_checkpoint(facts), HasSubstr("PyTorch state dict: 194 tensors"));
  write("l.safetensors", {{"lora_unet_blocks_29_ffn_0.lora_down.weight", torch::ones({4, 1536})},
                          {"lora_unet_blocks_29_ffn_0.lora_up.weight", torch::ones({8960, 4})},
                          {"lora_unet_blocks_30_ffn_0.lora_up.weight", torch::ones({8960, 4})}});
  const auto lora = inspect_checkpoint(file("l.safetensors"));
  EXPECT_EQ(lora["what"], "a LoRA adapter for wan-1.3b");
  EXPECT_EQ(lora["rank"], 4);
  EXPECT_EQ(lora["modules"], 1);
  EXPECT_EQ(lora["unmatched"], nlohmann::ordered_json({"lora_unet_blocks_30_ffn_0.lora_up.weight"}));
}

}  // namespace
}  // namespace moga
