#include "model/wan_config.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>

#include "base/atomic_file.h"

namespace moga {
namespace {

using ::testing::HasSubstr;

std::string message_of(const std::string& name) {
  try {
    model_config(name);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(WanConfig, KnowsTheBuiltInModels) {
  EXPECT_EQ(model_config("wan-1.3b").dit.head_dim(), 128);
  EXPECT_EQ(model_config("wan-14b").dit.head_dim(), 128);
  EXPECT_EQ(model_config("toy").dit.head_dim(), 32);
  EXPECT_EQ(model_config("toy").name, "toy");
}

TEST(WanConfig, UnknownNamesSayWhatIsKnown) {
  EXPECT_THAT(message_of("wan-1.3"), HasSubstr("did you mean 'wan-1.3b'?"));
  EXPECT_THAT(message_of("nothing"), HasSubstr("expected wan-1.3b, wan-14b, toy"));
  EXPECT_THAT(message_of(""), HasSubstr("unknown model ''"));
}

TEST(WanConfig, ReadsFilesAndFoldersBack) {
  const std::filesystem::path folder =
      std::filesystem::path(::testing::TempDir()) / fmt::format("moga_wan_config_{}", ::getpid());
  write_file_atomic(folder / "moga.json", config_to_json(model_config("toy")).dump());
  EXPECT_EQ(config_to_json(model_config(folder.string())), config_to_json(model_config("toy")));
  EXPECT_EQ(config_to_json(model_config((folder / "moga.json").string())),
            config_to_json(model_config("toy")));
  write_file_atomic(folder / "moga.json", "dit: {dim: 10, heads: 3}");
  EXPECT_THAT(message_of(folder.string()), HasSubstr("multiple of dit.heads"));
  write_file_atomic(folder / "moga.json", "dit: {dim: -10}");
  EXPECT_THAT(message_of(folder.string()), HasSubstr("dit.dim: expected 1 to"));
  write_file_atomic(folder / "moga.json", "dit: {dims: 10}");
  EXPECT_THAT(message_of(folder.string()), HasSubstr("did you mean 'dim'?"));
  std::filesystem::remove(folder / "moga.json");
  EXPECT_THAT(message_of(folder.string()), HasSubstr("holds no model"));
}

}  // namespace
}  // namespace moga
