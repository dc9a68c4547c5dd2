#include "io/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "base/atomic_file.h"
#include "base/error.h"

namespace moga {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class Safetensors : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / fmt::format("moga_io_{}", getpid());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path file(const std::string& name) const { return folder_ / name; }

  // A file with the given header and data, and the message that opening it gives ("" if it opens).
  std::string open(const std::string& header, const std::string& data = "") const {
    const uint64_t length = header.size();
    return open_raw(std::string(reinterpret_cast<const char*>(&length), 8) + header + data);
  }
  std::string open_raw(const std::string& bytes) const {
    const fs::path path = file("hostile.safetensors");
    write_file_atomic(path, bytes);
    try {
      const SafetensorsFile opened(path);
      opened.read_all();
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("hostile.safetensors"));
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
      return error.what();
    }
    return "";
  }

  fs::path folder_;
};

TEST_F(Safetensors, RoundTripsEveryDtypeAndShape) {
  std::map<std::string, torch::Tensor> tensors;
  for (const auto dtype : {torch::kFloat64, torch::kFloat32, torch::kFloat16, torch::kBFloat16, torch::kInt64,
                           torch::kInt32, torch::kInt16, torch::kInt8, torch::kUInt8, torch::kBool}) {
    const std::string name = torch::toString(dtype);
    tensors["odd." + name] = torch::randint(0, 2, {3, 5, 7}).to(dtype);
    tensors["scalar." + name] = torch::ones({}).to(dtype);
    tensors["empty." + name] = torch::empty({4, 0, 2}, dtype);
  }
  tensors["strided"] = torch::arange(24.).view({4, 6}).t();
  tensors["grad"] = torch::ones({2}, torch::requires_grad());
  tensors["na\xc3\xafve \"quoted\"\n"] = torch::ones({1});
  write_safetensors(file("a.safetensors"), tensors, {{"format", "pt"}, {"note", "two\nlines"}});

  const SafetensorsFile opened(file("a.safetensors"));
  EXPECT_EQ(opened.metadata().at("note"), "two\nlines");
  const auto all = opened.read_all();
  ASSERT_EQ(all.size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    EXPECT_EQ(all.at(name).scalar_type(), tensor.scalar_type()) << name;
    EXPECT_EQ(all.at(name).sizes(), tensor.sizes()) << name;
    EXPECT_TRUE(torch::equal(all.at(name), tensor)) << name;
    const TensorInfo& info = opened.tensors().at(name);
    EXPECT_EQ(info.begin % static_cast<size_t>(tensor.element_size()), 0U) << name;
  }
}

TEST_F(Safetensors, DataSurvivesTheFileObject) {
  write_safetensors(file("a.safetensors"), {{"x", torch::arange(5)}});
  const torch::Tensor x = SafetensorsFile(file("a.safetensors")).read("x");
  fs::remove(file("a.safetensors"));
  EXPECT_TRUE(torch::equal(x, torch::arange(5)));
}

TEST_F(Safetensors, NoTensorsAtAll) {
  write_safetensors(file("a.safetensors"), {});
  EXPECT_TRUE(SafetensorsFile(file("a.safetensors")).tensors().empty());
}

// Values by the definition of the formats, not by the table that the reader makes.
TEST_F(Safetensors, Float8IsWidenedExactly) {
  const auto read = [&](const std::string& dtype, const std::string& codes) {
    const std::string header = fmt::format(R"({{"x":{{"dtype":"{}","shape":[{}],"data_offsets":[0,{}]}}}})",
                                           dtype, codes.size(), codes.size());
    EXPECT_EQ(open(header, codes), "");
    return SafetensorsFile(file("hostile.safetensors")).read("x");
  };
  const torch::Tensor e4m3 = read("F8_E4M3", std::string("\x00\x01\x08\x38\x39\xb8\x7e\x7f", 8));
  EXPECT_EQ(e4m3.scalar_type(), torch::kBFloat16);
  const torch::Tensor e4m3_wide = e4m3.to(torch::kFloat64);
  const std::vector<double> expected = {0, 0.001953125, 0.015625, 1, 1.125, -1, 448};
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(e4m3_wide[static_cast<int64_t>(i)].item<double>(), expected[i]) << i;
  }
  EXPECT_TRUE(std::isnan(e4m3_wide[7].item<double>()));
  const torch::Tensor e5m2 =
      read("F8_E5M2", std::string("\x01\x3c\xbd\x7b\x7c\xfc\x7d", 7)).to(torch::kFloat64);
  EXPECT_EQ(e5m2[0].item<double>(), std::ldexp(1.0, -16));
  EXPECT_EQ(e5m2[1].item<double>(), 1);
  EXPECT_EQ(e5m2[2].item<double>(), -1.25);
  EXPECT_EQ(e5m2[3].item<double>(), 57344);
  EXPECT_EQ(e5m2[4].item<double>(), std::numeric_limits<double>::infinity());
  EXPECT_EQ(e5m2[5].item<double>(), -std::numeric_limits<double>::infinity());
  EXPECT_TRUE(std::isnan(e5m2[6].item<double>()));
}

// 34 MiB a tensor, so that reading takes more than one piece.
TEST_F(Safetensors, ReadsInPiecesAndConverts) {
  const torch::Tensor x = torch::arange(int64_t{17} << 20U).to(torch::kInt16);
  write_safetensors(file("a.safetensors"), {{"x", x}, {"y", torch::rand({3}).to(torch::kBFloat16)}});
  const SafetensorsFile opened(file("a.safetensors"));
  EXPECT_TRUE(opened.read("x").equal(x));
  EXPECT_TRUE(opened.read("x", torch::kFloat32).equal(x.to(torch::kFloat32)));
  EXPECT_EQ(opened.read("y", torch::kFloat32).scalar_type(), torch::kFloat32);
}

TEST_F(Safetensors, StreamedWritingChecksWhatItGets) {
  const auto make = [&](const torch::Tensor& given) {
    write_safetensors(file("s.safetensors"), {{"x", torch::kFloat32, {2, 3}}},
                      [&](const std::string&) { return given; });
  };
  make(torch::ones({2, 3}));
  EXPECT_EQ(SafetensorsFile(file("s.safetensors")).read("x").sum().item<float>(), 6);
  EXPECT_THROW(make(torch::ones({3, 2})), Error);
  EXPECT_THROW(make(torch::ones({2, 3}, torch::kFloat64)), Error);
}

TEST_F(Safetensors, UnknownNameSuggestsTheNearest) {
  write_safetensors(file("a.safetensors"), {{"blocks.0.weight", torch::ones({1})}});
  const SafetensorsFile opened(file("a.safetensors"));
  try {
    opened.read("blocks.0.weigth");
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("did you mean 'blocks.0.weight'"));
  }
}

TEST_F(Safetensors, ReferenceFilesAreReadAndWrittenByteForByte) {
  const char* given = std::getenv("MOGA_FIXTURES");
  const fs::path folder =
      given != nullptr ? fs::path(given) : fs::path(MOGA_SOURCE_DIR "/../shared/fixtures/wan");
  if (!fs::exists(folder)) {
    GTEST_SKIP() << "no reference fixtures at " << folder;
  }
  int files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.path().extension() != ".safetensors") {
      continue;
    }
    const SafetensorsFile opened(entry.path());
    write_safetensors(file("copy.safetensors"), opened.read_all(), opened.metadata());
    EXPECT_EQ(read_file(file("copy.safetensors")), read_file(entry.path())) << entry.path();
    ++files;
  }
  EXPECT_GE(files, 10);
  const auto vae = SafetensorsFile(folder / "t5_tiny_io.safetensors");
  EXPECT_EQ(vae.read("bucket.rel")[0].item<int64_t>(), -511);
}

TEST_F(Safetensors, EveryTruncationIsRefused) {
  write_safetensors(file("a.safetensors"), {{"x", torch::ones({3})}, {"y", torch::ones({2}, torch::kInt8)}});
  const std::string whole = read_file(file("a.safetensors"));
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_NE(open_raw(whole.substr(0, size)), "") << size;
  }
  EXPECT_EQ(open_raw(whole), "");
  EXPECT_THAT(open_raw(whole + "x"), HasSubstr("1 bytes after the last tensor"));
}

TEST_F(Safetensors, EveryFlippedByteIsReadOrRefused) {
  write_safetensors(file("a.safetensors"), {{"x", torch::ones({3})}, {"b", torch::ones({2}, torch::kBool)}});
  const std::string whole = read_file(file("a.safetensors"));
  for (size_t i = 0; i < whole.size(); ++i) {
    for (const int bit : {0, 3, 7}) {
      std::string bytes = whole;
      bytes[i] = static_cast<char>(bytes[i] ^ (1 << bit));
      open_raw(bytes);  // any moga::Error is fine; anything else fails the test
    }
  }
}

TEST_F(Safetensors, HeaderLengths) {
  const uint64_t huge = uint64_t{1} << 60U;
  EXPECT_THAT(open_raw(std::string(reinterpret_cast<const char*>(&huge), 8) + "{}"),
              HasSubstr("header is said"));
  EXPECT_THAT(open_raw(std::string(8, '\xff')), HasSubstr("header is said"));
  EXPECT_THAT(open_raw(std::string(8, '\0')), HasSubstr("not valid JSON"));
}

TEST_F(Safetensors, HostileHeaders) {
  const auto one = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return R"({"x":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
  };
  EXPECT_EQ(open(one("U8", "[4]", "[0,4]"), "abcd"), "");
  EXPECT_THAT(open(one("U8", "[4]", "[0,4]"), "abc"), HasSubstr("beyond the file's 3 data bytes"));
  EXPECT_THAT(open(one("F32", "[2]", "[0,4]"), "abcd"), HasSubstr("needs 8 bytes, data_offsets give 4"));
  EXPECT_THAT(open(one("F4", "[4]", "[0,4]"), "abcd"), HasSubstr("unknown dtype 'F4'"));
  EXPECT_THAT(open(one("U8", "[4]", "[4,0]"), "abcd"), HasSubstr("run backwards"));
  EXPECT_THAT(open(one("U8", "[-4]", "[0,4]"), "abcd"), HasSubstr("found -4"));
  EXPECT_THAT(open(one("U8", "[4.0]", "[0,4]"), "abcd"), HasSubstr("found 4.0"));
  EXPECT_THAT(open(one("U8", "[true]", "[0,4]"), "abcd"), HasSubstr("found true"));
  EXPECT_THAT(open(one("U8", "[null]", "[0,4]"), "abcd"), HasSubstr("found null"));
  EXPECT_THAT(open(one("U8", "4", "[0,4]"), "abcd"), HasSubstr("expected a list"));
  EXPECT_THAT(open(one("U8", "[[4]]", "[0,4]"), "abcd"), HasSubstr("found a list"));
  EXPECT_THAT(open(one("U8", "[4]", "[0,4,4]"), "abcd"), HasSubstr("expected two data_offsets"));
  EXPECT_THAT(open(one("U8", "[4]", "[0]"), "abcd"), HasSubstr("expected two data_offsets, found 1"));
  EXPECT_THAT(open(one("U8", "[4]", "[18446744073709551615,3]"), "abcd"), HasSubstr("run backwards"));
  EXPECT_THAT(open(one("F64", "[4611686018427387904,4]", "[0,4]"), "abcd"), HasSubstr("overflows"));
  EXPECT_THAT(open(one("F64", "[4611686018427387904,0,4]", "[0,0]")), HasSubstr("overflows"));
  EXPECT_THAT(open(one("U8", "[9223372036854775808]", "[0,4]"), "abcd"), HasSubstr("too large"));
  EXPECT_THAT(open(one("U8", "[99999999999999999999999]", "[0,4]"), "abcd"), HasSubstr("expected"));
  std::string ones = "[4";
  for (int i = 0; i < 100; ++i) {
    ones += ",1";
  }
  EXPECT_THAT(open(one("U8", ones + "]", "[0,4]"), "abcd"), HasSubstr("more than 64 dimensions"));
}

TEST_F(Safetensors, OverlapsGapsAndDuplicates) {
  const auto two = [](const std::string& a, const std::string& b, const std::string& second = "b") {
    return R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + a + R"(},")" + second +
           R"(":{"dtype":"U8","shape":[4],"data_offsets":)" + b + "}}";
  };
  EXPECT_EQ(open(two("[0,4]", "[4,8]"), "abcdefgh"), "");
  EXPECT_EQ(open(two("[4,8]", "[0,4]"), "abcdefgh"), "");
  EXPECT_THAT(open(two("[0,4]", "[2,6]"), "abcdef"), HasSubstr("overlaps"));
  EXPECT_THAT(open(two("[0,4]", "[0,4]"), "abcd"), HasSubstr("overlaps"));
  EXPECT_THAT(open(two("[0,4]", "[6,10]"), "abcdefghij"), HasSubstr("2 bytes before tensor 'b'"));
  EXPECT_THAT(open(two("[0,4]", "[4,8]", "a"), "abcdefgh"), HasSubstr("'a' is given twice"));
  EXPECT_THAT(open(two("[0,4]", "[4,8]", "\\u0061"), "abcdefgh"), HasSubstr("'a' is given twice"));
  EXPECT_THAT(open(R"({"a":{"dtype":"U8","dtype":"I8","shape":[0],"data_offsets":[0,0]}})"),
              HasSubstr("given twice"));
}

TEST_F(Safetensors, NotTheFormat) {
  EXPECT_THAT(open("[]"), HasSubstr("expected an object"));
  EXPECT_THAT(open("3"), HasSubstr("expected an object"));
  EXPECT_THAT(open("{\"a\":"), HasSubstr("not valid JSON"));
  EXPECT_THAT(open("{} {}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(open("{\"\xff\":1}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(open(R"({"a":1})"), HasSubstr("'a': expected an object"));
  EXPECT_THAT(open(R"({"a":"x"})"), HasSubstr("'a': expected an object"));
  EXPECT_THAT(open(R"({"a":{}})"), HasSubstr("has no \"dtype\""));
  EXPECT_THAT(open(R"({"a":{"dtype":"U8","shape":[0],"offsets":[0,0]}})"),
              HasSubstr("unknown field 'offsets'"));
  EXPECT_THAT(open(R"({"a":{"dtype":{},"shape":[0],"data_offsets":[0,0]}})"), HasSubstr("expected text"));
  EXPECT_THAT(open(R"({"a":{"dtype":["U8"],"shape":[0],"data_offsets":[0,0]}})"), HasSubstr("expected text"));
  EXPECT_THAT(open(R"({"__metadata__":{"k":1}})"), HasSubstr("expected text"));
  EXPECT_THAT(open(R"({"__metadata__":{"k":{}}})"), HasSubstr("expected text"));
  EXPECT_THAT(open(R"({"__metadata__":[]})"), HasSubstr("expected an object"));
  EXPECT_EQ(open(R"({"__metadata__":{"k":"v","dtype":"x"}})"), "");
  EXPECT_THAT(open(std::string(1'000'000, '[')), HasSubstr("found a list"));
  std::string nested;
  for (int i = 0; i < 100'000; ++i) {
    nested += "{\"a\":";
  }
  EXPECT_THAT(open(nested), HasSubstr("unknown field"));
}

TEST_F(Safetensors, MissingFilesFoldersAndFifos) {
  EXPECT_THROW(SafetensorsFile(file("none")), Error);
  EXPECT_THROW(SafetensorsFile{folder_}, Error);
  EXPECT_THROW(SafetensorsFile("/dev/null"), Error);
}

TEST_F(Safetensors, RefusesWhatTheFormatCannotHold) {
  EXPECT_THROW(write_safetensors(file("a"), {{"__metadata__", torch::ones({1})}}), Error);
  EXPECT_THROW(write_safetensors(file("a"), {{"\xff", torch::ones({1})}}), Error);
  EXPECT_THROW(write_safetensors(file("a"), {{"x", torch::Tensor()}}), Error);
  EXPECT_THROW(write_safetensors(file("a"), {{"x", torch::ones({1}, torch::kComplexFloat)}}), Error);
  EXPECT_THROW(write_safetensors(file("a"), {{"x", torch::ones({1})}}, {{"k", "\xff"}}), Error);
  EXPECT_FALSE(fs::exists(file("a")));
}

TEST_F(Safetensors, AFullDiskLeavesTheOldFile) {
  write_safetensors(file("a.safetensors"), {{"x", torch::ones({3})}});
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  const rlimit small{4096, old.rlim_max};
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &small);
  EXPECT_THROW(write_safetensors(file("a.safetensors"), {{"x", torch::ones({100'000})}}), Error);
  setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_EQ(SafetensorsFile(file("a.safetensors")).read("x").numel(), 3);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);
}

}  // namespace
}  // namespace moga
