// Name mappings against the name lists of the real checkpoints: names and shapes, no weights.
#include "model/weight_names.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/atomic_file.h"
#include "model/fixtures_test_util.h"
#include "model/model_sizes.h"
#include "model/umt5.h"
#include "model/wan_dit.h"
#include "model/wan_vae.h"
#include "model/weights.h"

namespace moga {
namespace {

namespace fs = std::filesystem;

ShapeMap read_names(const fs::path& file) {
  ShapeMap shapes;
  const auto json = nlohmann::json::parse(read_file(file));
  for (const auto& [name, shape] : json["tensors"].items()) {
    shapes[name] = shape.get<std::vector<int64_t>>();
  }
  EXPECT_EQ(shapes.size(), json["num_tensors"].get<size_t>()) << file;
  return shapes;
}

std::vector<std::string> names_of(const ShapeMap& shapes) {
  std::vector<std::string> names;
  for (const auto& entry : shapes) {
    names.push_back(entry.first);
  }
  return names;
}

struct NameList {
  const char* file;
  PartKind part;
  Naming naming;
  const char* model;  // whose built-in sizes must come out
};
constexpr NameList kLists[] = {
    {"names_dit_t2v_1.3b.json", PartKind::kDit, Naming::kWan, "wan-1.3b"},
    {"names_dit_t2v_1.3b_diffusers.json", PartKind::kDit, Naming::kDiffusers, "wan-1.3b"},
    {"names_dit_t2v_14b.json", PartKind::kDit, Naming::kWan, "wan-14b"},
    {"names_dit_t2v_14b_diffusers.json", PartKind::kDit, Naming::kDiffusers, "wan-14b"},
    {"names_vae.json", PartKind::kVae, Naming::kWan, "wan-1.3b"},
    {"names_vae_diffusers.json", PartKind::kVae, Naming::kDiffusers, "wan-1.3b"},
    {"names_umt5_xxl.json", PartKind::kText, Naming::kWan, "wan-1.3b"},
    {"names_umt5_xxl_transformers.json", PartKind::kText, Naming::kDiffusers, "wan-1.3b"},
};

class RealNames : public testing::TestWithParam<NameList> {
 protected:
  void SetUp() override {
    if (!fs::exists(wan_fixtures() / GetParam().file)) {
      GTEST_SKIP() << "no name list " << wan_fixtures() / GetParam().file;
    }
  }
};

// Sizes and shapes of the part with the sizes that the name list shows.
template <typename M, typename C>
void expect_fit(const C& found, const C& expected, const ShapeMap& names, const RecognisedPart& what) {
  EXPECT_EQ(config_to_json(found), config_to_json(expected));
  const BareWeights bare;
  const M module(found);
  const NameMatch match = match_names(module_shapes(*module), names, what);
  EXPECT_TRUE(match.fits()) << match.problems();
  EXPECT_EQ(match.stored.size(), names.size());
}

TEST_P(RealNames, AreRecognisedSizedAndMatchedWithAndWithoutAPrefix) {
  const NameList& list = GetParam();
  const ModelConfig model = model_config(list.model);
  for (const std::string prefix : {"", "diffusion_model."}) {
    ShapeMap names;
    for (const auto& [name, shape] : read_names(wan_fixtures() / list.file)) {
      names[prefix + name] = shape;
    }
    const auto what = recognise_part(names_of(names));
    ASSERT_TRUE(what.has_value());
    EXPECT_EQ(what->part, list.part);
    EXPECT_EQ(what->naming, list.naming);
    EXPECT_EQ(what->prefix, prefix);
    if (list.part == PartKind::kDit) {
      DitConfig expected = model.dit;
      expected.attention.kind = AttentionKind::kFull;
      expect_fit<WanDit>(infer_dit(names, *what, list.file, {}), expected, names, *what);
    } else if (list.part == PartKind::kVae) {
      expect_fit<WanVae>(infer_vae(names, *what, list.file, {}), model.vae, names, *what);
    } else {
      expect_fit<UmT5>(infer_text(names, *what, list.file), model.text, names, *what);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, RealNames, testing::ValuesIn(kLists), [](const auto& list) {
  std::string name = list.param.file;
  name = name.substr(6, name.size() - 11);
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
});

TEST(WeightNames, FollowTheNameMap) {
  const fs::path file = wan_fixtures() / "name_map_official_to_diffusers.json";
  if (!fs::exists(file)) {
    GTEST_SKIP() << "no name map " << file;
  }
  const auto json = nlohmann::json::parse(read_file(file));
  int count = 0;
  for (const auto& [key, part] : {std::pair("dit_t2v_1.3b", PartKind::kDit), std::pair("vae", PartKind::kVae),
                                  std::pair("umt5_xxl", PartKind::kText)}) {
    for (const auto& [official, other] : json[key].items()) {
      EXPECT_EQ(name_in(Naming::kDiffusers, part, official), other.get<std::string>());
      EXPECT_EQ(name_in(Naming::kWan, part, official), official);
      ++count;
    }
  }
  EXPECT_EQ(count, 825 + 194 + 242);
}

TEST(WeightNames, TheEmbeddingHasAnAlias) {
  const RecognisedPart what{PartKind::kText, Naming::kDiffusers, ""};
  const ShapeMap expected = {{"token_embedding.weight", {4, 2}}};
  const auto match = [&](const ShapeMap& found) { return match_names(expected, found, what); };
  EXPECT_TRUE(match({{"shared.weight", {4, 2}}}).fits());
  EXPECT_TRUE(match({{"encoder.embed_tokens.weight", {4, 2}}}).fits());
  EXPECT_TRUE(
      match({{"encoder.embed_tokens.weight", {4, 2}}, {"shared.weight", {4, 2}}, {"spiece_model", {9}}})
          .fits());
  EXPECT_FALSE(match({{"decoder.embed_tokens.weight", {4, 2}}}).fits());
}

TEST(WeightNames, MisfitsAreToldApart) {
  const RecognisedPart what{PartKind::kDit, Naming::kWan, "p."};
  const NameMatch match = match_names({{"a", {1}}, {"b", {2}}, {"c", {3}}},
                                      {{"p.a", {1}}, {"p.b", {3}}, {"p.d", {1}}, {"other", {1}}}, what);
  EXPECT_FALSE(match.fits());
  EXPECT_EQ(match.stored.at("a"), "p.a");
  EXPECT_EQ(match.missing, std::vector<std::string>{"c"});
  EXPECT_EQ(match.unexpected, std::vector<std::string>{"p.d"});
  EXPECT_EQ(match.problems(), "missing c; b is [3], expected [2]; unexpected p.d");
}

TEST(WeightNames, OtherFilesAreNotRecognised) {
  EXPECT_FALSE(recognise_part({"a", "b.weight"}));
  EXPECT_FALSE(recognise_part({"vace_blocks.0.self_attn.q.weight"}));
  EXPECT_FALSE(recognise_part({"diffusion_model.blocks.0.self_attn.q.lora_A.weight"}));
}

}  // namespace
}  // namespace moga
