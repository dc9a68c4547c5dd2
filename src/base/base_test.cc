#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>

#include "base/atomic_file.h"
#include "base/config.h"
#include "base/module.h"
#include "base/progress.h"
#include "base/text_util.h"
#include "base/threads.h"

namespace moga {

enum class Colour { kRed, kBlue };
template <>
struct EnumNames<Colour> {
  static constexpr std::array<std::pair<Colour, const char*>, 2> kNames = {
      {{Colour::kRed, "red"}, {Colour::kBlue, "blue"}}};
};

namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

struct Inner {
  double rate = 0.5;
  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("rate", s.rate, "a rate");
  }
};

struct Outer {
  int64_t steps = 3;
  Colour colour = Colour::kRed;
  std::optional<std::string> name;
  std::vector<Inner> parts;
  Inner inner;
  std::optional<Inner> other;
  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("steps", s.steps, "how many steps");
    v("colour", s.colour, "which colour");
    v("name", s.name, "a name");
    v("parts", s.parts, "parts");
    v("inner", s.inner, "inner settings");
    v("other", s.other, "inner settings; absent: inner");
  }
};

template <typename F>
std::string message_of(F&& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Config, ReadsEveryFieldType) {
  const auto config =
      parse_config<Outer>("steps: 7\ncolour: blue\nname: x\nparts: [{rate: 1}, {}]\ninner: {rate: 2}", "t");
  EXPECT_EQ(config.steps, 7);
  EXPECT_EQ(config.colour, Colour::kBlue);
  EXPECT_EQ(config.name, "x");
  ASSERT_EQ(config.parts.size(), 2U);
  EXPECT_EQ(config.parts[0].rate, 1);
  EXPECT_EQ(config.parts[1].rate, 0.5);
  EXPECT_EQ(config.inner.rate, 2);
}

TEST(Config, JsonRoundTrip) {
  auto config = parse_config<Outer>("parts: [{rate: 0.25}]\ncolour: blue", "t");
  const std::string text = config_to_json(config).dump();
  EXPECT_EQ(config_to_json(parse_config<Outer>(text, "t")).dump(), text);
}

TEST(Config, UnknownKeyNamesPlaceAndNearest) {
  const std::string text = message_of([] { parse_config<Outer>("steps: 1\nsteqs: 2", "f.yaml"); });
  EXPECT_THAT(text, HasSubstr("f.yaml:2:1"));
  EXPECT_THAT(text, HasSubstr("did you mean 'steps'"));
}

TEST(Config, WrongTypesNameThePlace) {
  EXPECT_THAT(message_of([] { parse_config<Outer>("steps: many", "f"); }),
              HasSubstr("f:1:8: steps: expected a whole number, found 'many'"));
  EXPECT_THAT(message_of([] { parse_config<Outer>("colour: green", "f"); }), HasSubstr("one of red, blue"));
  EXPECT_THAT(message_of([] { parse_config<Outer>("parts: 3", "f"); }), HasSubstr("expected a list"));
  EXPECT_THAT(message_of([] { parse_config<Outer>("a: [1", "f"); }), HasSubstr("not valid YAML"));
  EXPECT_THAT(message_of([] { parse_config<Outer>("a: \xff", "f"); }), HasSubstr("UTF-8"));
}

TEST(Config, ExplainListsKeysWithDefaults) {
  const std::string text = explain_config<Outer>();
  EXPECT_THAT(text, HasSubstr("steps = 3\n    how many steps"));
  EXPECT_THAT(text, HasSubstr("inner.rate = 0.5"));
  EXPECT_THAT(text, HasSubstr("parts[].rate = 0.5"));
  EXPECT_THAT(text, HasSubstr("other = null\n    inner settings; absent: inner\nother.rate = 0.5"));
}

TEST(TextUtil, Utf8) {
  EXPECT_TRUE(is_utf8("plain, h\xc3\xa9, \xe4\xb8\xad, \xf0\x9f\x8e\xac"));
  EXPECT_FALSE(is_utf8("\xff"));
  EXPECT_FALSE(is_utf8("\xc3"));
  EXPECT_FALSE(is_utf8("\xc0\x80"));
  EXPECT_FALSE(is_utf8("\xed\xa0\x80"));
}

TEST(TextUtil, HumanUnits) {
  EXPECT_EQ(human_count(1.5e12), "1.5T");
  EXPECT_EQ(human_count(999), "999");
  EXPECT_EQ(human_bytes(1536), "1.5 KiB");
  EXPECT_EQ(human_seconds(185), "3 min 05 s");
  EXPECT_EQ(human_seconds(7620), "2 h 07 min");
}

TEST(TextUtil, NearestWord) {
  EXPECT_EQ(nearest_word("promt", {"seconds", "prompt"}), "prompt");
  EXPECT_EQ(nearest_word("zzzzzz", {"seconds", "prompt"}), std::nullopt);
}

class Folder : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "moga_base_XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    path_ = name;
  }
  void TearDown() override { fs::remove_all(path_); }
  size_t entries() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(path_), fs::directory_iterator()));
  }
  fs::path path_;
};

TEST_F(Folder, AtomicFileAppearsOnCommitOnly) {
  {
    AtomicFile file(path_ / "sub" / "a.txt");
    std::ofstream(file.path()) << "x";
    EXPECT_FALSE(fs::exists(path_ / "sub" / "a.txt"));
  }
  EXPECT_TRUE(fs::is_empty(path_ / "sub"));
  write_file_atomic(path_ / "a.txt", "hello");
  EXPECT_EQ(read_file(path_ / "a.txt"), "hello");
}

TEST_F(Folder, AtomicFolderReplaces) {
  for (const char* text : {"one", "two"}) {
    AtomicFolder folder(path_ / "c");
    std::ofstream(folder.path() / "f") << text;
    folder.commit();
    EXPECT_EQ(read_file(path_ / "c" / "f"), text);
  }
  EXPECT_EQ(entries(), 1U);
}

TEST_F(Folder, InterruptedFolderCommitIsRecovered) {
  fs::create_directory(path_ / "c.old");
  recover_folder(path_ / "c");
  EXPECT_TRUE(fs::exists(path_ / "c"));
}

TEST_F(Folder, ReadFileErrors) {
  EXPECT_THAT(message_of([&] { read_file(path_ / "none"); }), HasSubstr("no such file"));
  EXPECT_THAT(message_of([&] { read_file(path_); }), HasSubstr("found a folder"));
  write_file_atomic(path_ / "a", "12345");
  EXPECT_THAT(message_of([&] { read_file(path_ / "a", 4); }), HasSubstr("larger than"));
  EXPECT_THAT(message_of([&] { check_writable("/proc/none/x"); }), HasSubstr("cannot"));
}

TEST(MemoryShortage, IsOneLineOfWhatLibtorchSays) {
  EXPECT_EQ(
      memory_shortage(std::runtime_error(
          "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.18 GiB of which "
          "3.27 GiB is free. Including non-PyTorch memory, this process has 75.91 GiB memory in use.\n"
          "Exception raised from malloc")),
      "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.18 GiB of which "
      "3.27 GiB is free");
  EXPECT_EQ(memory_shortage(std::bad_alloc()), "out of memory");
  EXPECT_FALSE(memory_shortage(std::runtime_error("expected a tensor, found out of memory and out of mind")));
}

TEST(Threads, EnvironmentOverridesAndIsChecked) {
  setenv("MOGA_THREADS", "3", 1);
  EXPECT_EQ(thread_count(), 3);
  setenv("MOGA_THREADS", "none", 1);
  EXPECT_THAT(message_of([] { thread_count(); }), HasSubstr("MOGA_THREADS"));
  unsetenv("MOGA_THREADS");
  EXPECT_GE(thread_count(), 1);
}

TEST(Threads, OpenBlasMultipliesWithWhatTheCpuHas) {
  EXPECT_EQ(openblas_core_type("Prescott", true, true, true), "Cooperlake");
  EXPECT_EQ(openblas_core_type("Prescott", true, true, false), "SkylakeX");
  EXPECT_EQ(openblas_core_type("Sandybridge", true, false, false), "Haswell");
  EXPECT_EQ(openblas_core_type("Prescott", false, false, false), "");
  for (const char* core : {"Haswell", "Zen", "SkylakeX", "Cooperlake", "Sapphirerapids", "ARMV8", ""}) {
    EXPECT_EQ(openblas_core_type(core, true, true, true), "") << core;
  }
}

TEST(Module, ReturnsWhatItsFunctionReturns) {
  EXPECT_EQ(load_module("libc.so.6", "__errno_location"), &errno);
  EXPECT_THAT(message_of([] { load_module("libmoga_none.so", "api"); }),
              HasSubstr("cannot load libmoga_none.so"));
  EXPECT_THAT(message_of([] { load_module("libc.so.6", "moga_api"); }),
              HasSubstr("libc.so.6 is of another version: it has no function moga_api"));
}

TEST(Progress, TimeLeftFollowsTheRate) {
  Progress progress("test", 100, "step", 50);
  EXPECT_EQ(progress.seconds_left(), 0);
  progress.advance(25);
  EXPECT_NEAR(progress.seconds_left(), progress.seconds_elapsed(), 0.01 + progress.seconds_elapsed() * 0.5);
}

}  // namespace
}  // namespace moga
