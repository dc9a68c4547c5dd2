// PyTorch state dicts and sharded checkpoints, sound and hostile.
#include "io/checkpoint.h"

#include <caffe2/serialize/inline_container.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <functional>

#include "base/atomic_file.h"
#include "base/error.h"
#include "io/safetensors.h"
#include "io/state_pickle.h"

namespace moga {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

// Writes pickle opcodes the way Python's pickler (protocol 2) writes a state dict.
class Pickle {
 public:
  Pickle() { raw("\x80\x02"); }
  Pickle& raw(const std::string& bytes) {
    text_ += bytes;
    return *this;
  }
  Pickle& number(uint32_t value, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) {
      text_ += static_cast<char>(value >> (8 * i));
    }
    return *this;
  }
  Pickle& text(const std::string& value) {
    return raw("X").number(static_cast<uint32_t>(value.size()), 4).raw(value);
  }
  Pickle& integer(int64_t value) { return raw("J").number(static_cast<uint32_t>(value), 4); }
  Pickle& global(const std::string& module, const std::string& name) {
    return raw("c" + module + "\n" + name + "\n");
  }
  Pickle& sizes(const std::vector<int64_t>& values) {
    raw("(");
    for (const int64_t value : values) {
      integer(value);
    }
    return raw("t");
  }
  Pickle& ordered_dict() { return global("collections", "OrderedDict").raw(")R"); }
  Pickle& tensor(const std::string& storage_class, const std::string& key, int64_t elements, int64_t offset,
                 const std::vector<int64_t>& shape, const std::vector<int64_t>& strides) {
    global("torch._utils", "_rebuild_tensor_v2");
    raw("((")
        .text("storage")
        .global("torch", storage_class)
        .text(key)
        .text("cpu")
        .integer(elements)
        .raw("tQ");
    integer(offset).sizes(shape).sizes(strides).raw("\x89");
    return ordered_dict().raw("tR");
  }
  const std::string& done() { return raw(".").text_; }

 private:
  std::string text_;
};

class CheckpointFiles : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / fmt::format("moga_checkpoint_{}", ::getpid());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path write_archive(const std::string& pickle, const std::map<std::string, std::string>& records) const {
    fs::path path = folder_ / "model.pth";
    caffe2::serialize::PyTorchStreamWriter writer(path.string());
    writer.writeRecord("data.pkl", pickle.data(), pickle.size());
    for (const auto& [name, bytes] : records) {
      writer.writeRecord(name, bytes.data(), bytes.size());
    }
    writer.writeEndOfFile();
    return path;
  }
  static std::string message_of(const std::function<void()>& action) {
    try {
      action();
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
      return error.what();
    }
    return "no error";
  }
  std::string refusal(const std::string& pickle) const {
    return message_of([&] { parse_state_pickle(pickle, "file"); });
  }

  fs::path folder_;
};

template <typename T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

TEST_F(CheckpointFiles, ReadsAStateDictAsPyTorchWritesIt) {
  Pickle pickle;
  pickle.ordered_dict().raw("q\x01(");
  pickle.text("a.weight").tensor("FloatStorage", "0", 6, 0, {2, 3}, {3, 1});
  pickle.text("a.transposed").tensor("FloatStorage", "0", 6, 0, {3, 2}, {1, 3});
  pickle.text("b").tensor("BFloat16Storage", "1", 3, 1, {2}, {1});
  pickle.text("scalar").tensor("LongStorage", "2", 1, 0, {}, {});
  // nn.Module.state_dict() carries the modules' versions as an attribute of the dict.
  pickle.raw("u}").text("_metadata").ordered_dict().raw("sb");
  const fs::path path =
      write_archive(pickle.done(), {{"data/0", bytes_of<float>({0, 1, 2, 3, 4, 5})},
                                    {"data/1", bytes_of<uint16_t>({0x3f80, 0x4000, 0xc040})},
                                    {"data/2", bytes_of<int64_t>({-7})}});
  const Checkpoint checkpoint(path);
  EXPECT_EQ(checkpoint.format(), "PyTorch state dict");
  ASSERT_EQ(checkpoint.tensors().size(), 4U);
  EXPECT_EQ(checkpoint.tensors().at("b").stored, "BF16");
  EXPECT_TRUE(checkpoint.read("a.weight").equal(torch::arange(6.).to(torch::kFloat32).view({2, 3})));
  EXPECT_TRUE(checkpoint.read("a.transposed").equal(checkpoint.read("a.weight").t()));
  EXPECT_TRUE(checkpoint.read("b", torch::kFloat32).equal(torch::tensor({2.F, -3.F})));
  EXPECT_EQ(checkpoint.read("scalar").item<int64_t>(), -7);
  EXPECT_THAT(message_of([&] { checkpoint.read("a.wieght"); }), HasSubstr("did you mean 'a.weight'?"));
}

TEST_F(CheckpointFiles, CodeInPicklesIsNamedAndNotRun) {
  const std::string shell = Pickle().global("posix", "system").text("touch /tmp/owned").raw("\x85R").done();
  EXPECT_THAT(refusal(shell), HasSubstr("asks for 'posix system', which was not run"));
  const std::string hidden =
      Pickle().raw("}").text("x").text("builtins").text("eval").raw("\x93").text("1").raw("\x85Rs").done();
  EXPECT_THAT(refusal(hidden), HasSubstr("'builtins eval'"));
  // Known names of torch that are no tensors.
  EXPECT_THAT(refusal(Pickle().global("torch.serialization", "load").raw(")R").done()),
              HasSubstr("which was not run"));
  EXPECT_THAT(message_of([&] { Checkpoint{write_archive(shell, {})}; }), HasSubstr("posix system"));
}

TEST_F(CheckpointFiles, OnlyTensorsAreTaken) {
  EXPECT_THAT(refusal(Pickle().raw("}").text("epoch").integer(3).raw("s").done()),
              HasSubstr("'epoch', which is no tensor"));
  EXPECT_THAT(refusal(Pickle().integer(3).done()), HasSubstr("no dict"));
  EXPECT_THAT(refusal(Pickle().raw("}").integer(3).integer(4).raw("s").done()),
              HasSubstr("keys are no names"));
  EXPECT_THAT(refusal(Pickle().raw("}").text("x").raw("}").text("y").raw("Nss").done()), HasSubstr("'x.y'"));
}

TEST_F(CheckpointFiles, DamagedPicklesAreRefused) {
  Pickle good;
  good.raw("}").text("x").tensor("FloatStorage", "0", 4, 0, {4}, {1}).raw("s");
  const std::string whole = good.done();
  EXPECT_EQ(refusal(whole), "no error");
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_NE(refusal(whole.substr(0, size)), "no error") << size;
  }
  for (size_t i = 0; i < whole.size(); ++i) {
    for (const int bit : {0, 3, 7}) {
      std::string bytes = whole;
      bytes[i] = static_cast<char>(bytes[i] ^ (1 << bit));
      refusal(bytes);  // any Error is fine; anything else fails the test
    }
  }
  EXPECT_THAT(refusal(Pickle().raw(std::string(100'000, ')')).raw(std::string(99'999, '\x86')).done()),
              HasSubstr("no dict"));
}

// A dict may be put into itself through the memo, after its depth was known; the number of ways through a
// dict of shared dicts is exponential.
TEST_F(CheckpointFiles, PicklesThatNestWithoutEndAreRefused) {
  const auto remember = [](Pickle& pickle, uint32_t key) { pickle.raw("q").number(key, 1); };
  const auto recall = [](Pickle& pickle, uint32_t key) { pickle.raw("h").number(key, 1); };
  Pickle self;
  self.raw("}");
  remember(self, 0);
  self.text("x");
  recall(self, 0);
  EXPECT_THAT(refusal(self.raw("s").done()), HasSubstr("nests too deeply"));

  Pickle pair;
  pair.raw("}");
  remember(pair, 0);
  pair.text("x").raw("}");
  remember(pair, 1);
  pair.text("y");
  recall(pair, 0);
  EXPECT_THAT(refusal(pair.raw("ss").done()), HasSubstr("nests too deeply"));

  Pickle list;
  list.raw("]");
  remember(list, 0);
  recall(list, 0);
  EXPECT_THAT(refusal(list.raw("a").done()), HasSubstr("no dict"));

  Pickle deep;
  deep.raw("}");
  for (int i = 0; i < 40; ++i) {
    deep.text("x").raw("}");
  }
  EXPECT_THAT(refusal(deep.raw(std::string(40, 's')).done()), HasSubstr("nests too deeply"));

  Pickle wide;  // 2^30 names: each dict holds the one before it twice
  wide.raw("}");
  remember(wide, 0);
  for (uint32_t i = 0; i < 30; ++i) {
    wide.raw("}(").text("a");
    recall(wide, i);
    wide.text("b");
    recall(wide, i);
    wide.raw("u");
    remember(wide, i + 1);
  }
  EXPECT_THAT(refusal(wide.done()), HasSubstr("more than 100000 entries"));

  EXPECT_THAT(refusal(Pickle().raw("}").text(std::string(1001, 'x')).raw("Ns").done()),
              HasSubstr("1001 bytes"));
  Pickle joined;
  joined.raw("}").text(std::string(600, 'x')).raw("}").text(std::string(600, 'y'));
  EXPECT_THAT(refusal(joined.raw("Nss").done()), HasSubstr("1201 bytes"));
}

TEST_F(CheckpointFiles, TensorsStayInsideTheirStorage) {
  const std::map<std::string, std::string> records = {{"data/0", bytes_of<float>({0, 1, 2, 3})}};
  const auto opening = [&](int64_t elements, int64_t offset, const std::vector<int64_t>& shape,
                           const std::vector<int64_t>& strides, const std::string& storage = "FloatStorage") {
    Pickle pickle;
    pickle.raw("}").text("x").tensor(storage, "0", elements, offset, shape, strides).raw("s");
    const fs::path path = write_archive(pickle.done(), records);
    return message_of([&] { Checkpoint(path).read("x"); });
  };
  EXPECT_EQ(opening(4, 0, {2, 2}, {2, 1}), "no error");
  EXPECT_THAT(opening(4, 1, {2, 2}, {2, 1}), HasSubstr("needs 5 elements, its storage has 4"));
  EXPECT_THAT(opening(4, 0, {2, 2}, {3, 1}), HasSubstr("needs 5 elements"));
  EXPECT_THAT(opening(4, 0, {2147483647, 2147483647, 2147483647}, {1, 1, 1}), HasSubstr("overflows"));
  EXPECT_THAT(opening(4, 0, {2, 2}, {2}), HasSubstr("do not match"));
  EXPECT_THAT(opening(4, -1, {2}, {1}), HasSubstr("do not match"));
  EXPECT_THAT(opening(4, 0, {-2}, {1}), HasSubstr("negative"));
  EXPECT_THAT(opening(5, 0, {5}, {1}), HasSubstr("expected a storage of 20 bytes, found 16"));
  EXPECT_THAT(opening(4, 0, {4}, {1}, "QInt8Storage"), HasSubstr("unknown dtype 'QInt8'"));
}

TEST_F(CheckpointFiles, DamagedArchivesAreRefused) {
  Pickle pickle;
  pickle.raw("}").text("x").tensor("FloatStorage", "0", 4, 0, {4}, {1}).raw("s");
  const fs::path path = write_archive(pickle.done(), {{"data/0", bytes_of<float>({0, 1, 2, 3})}});
  const std::string whole = read_file(path);
  const fs::path damaged = folder_ / "damaged.pth";
  for (size_t size = 0; size < whole.size(); size += 7) {
    write_file_atomic(damaged, whole.substr(0, size));
    EXPECT_NE(message_of([&] { Checkpoint(damaged).read("x"); }), "no error") << size;
  }
  for (size_t i = 0; i < whole.size(); i += 3) {
    std::string bytes = whole;
    bytes[i] = static_cast<char>(bytes[i] ^ 0x11);
    write_file_atomic(damaged, bytes);
    message_of([&] { Checkpoint(damaged).read("x"); });  // an Error or the tensor, nothing else
  }
  write_file_atomic(damaged, std::string("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15));
  EXPECT_THAT(message_of([&] { Checkpoint{damaged}; }), HasSubstr("before 1.6"));
}

TEST_F(CheckpointFiles, ShardsFollowTheIndex) {
  write_safetensors(folder_ / "m-00001-of-00002.safetensors", {{"a", torch::ones({2})}});
  write_safetensors(folder_ / "m-00002-of-00002.safetensors",
                    {{"b", torch::zeros({3})}, {"c", torch::ones({1})}});
  const fs::path index = folder_ / "m.safetensors.index.json";
  const auto with = [&](const std::string& map) {
    write_file_atomic(index, "{\"metadata\": {}, \"weight_map\": {" + map + "}}");
    return message_of([&] { Checkpoint{index}; });
  };
  EXPECT_EQ(with(R"("a": "m-00001-of-00002.safetensors", "b": "m-00002-of-00002.safetensors")"), "no error");
  const Checkpoint checkpoint(index);
  EXPECT_EQ(checkpoint.tensors().size(), 2U);  // what the index names, not all that the shards hold
  EXPECT_EQ(checkpoint.read("b").numel(), 3);
  EXPECT_EQ(checkpoint.files().size(), 3U);
  EXPECT_THAT(with(R"("a": "m-00002-of-00002.safetensors")"), HasSubstr("has no such tensor"));
  EXPECT_THAT(with(R"("a": "m-00003-of-00002.safetensors")"), HasSubstr("is missing"));
  EXPECT_THAT(with(R"("a": "../m-00001-of-00002.safetensors")"),
              HasSubstr("expected a file beside the index"));
  EXPECT_THAT(with(R"("a": "/etc/passwd")"), HasSubstr("expected a file beside the index"));
  EXPECT_THAT(with(R"("a": 3)"), HasSubstr("has no shard"));
  EXPECT_THAT(with(""), HasSubstr("names no tensors"));
  write_file_atomic(index, "[]");
  EXPECT_THAT(message_of([&] { Checkpoint{index}; }), HasSubstr("weight_map"));
}

// Bytes as ComfyUI's scaled float8 files have them.
TEST_F(CheckpointFiles, Float8WeightsAreReadTimesTheirFactor) {
  struct Entry {
    std::string name, dtype, shape, bytes;
  };
  const auto float_bytes = [](float value) {
    std::string bytes(4, '\0');
    std::memcpy(bytes.data(), &value, 4);
    return bytes;
  };
  const std::vector<Entry> entries = {
      {"blocks.0.q.weight", "F8_E4M3", "[2,2]", "\x38\x39\xb8\x7e"},  // 1, 1.125, -1, 448
      {"blocks.0.q.scale_weight", "F32", "[1]", float_bytes(0.3F)},
      {"blocks.0.q.scale_input", "F32", "[1]", float_bytes(7)},
      {"blocks.0.k.weight", "F8_E4M3", "[1]", "\x38"},
      {"blocks.0.other.weight", "F32", "[1]", float_bytes(2)},
      {"blocks.0.other.scale_weight", "F32", "[1]", float_bytes(3)},  // its weight is not float8
      {"scaled_fp8", "F8_E4M3", "[2]", std::string(2, '\0')}};
  std::string header;
  std::string data;
  for (const Entry& entry : entries) {
    header +=
        fmt::format(R"({}"{}":{{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})", header.empty() ? "" : ",",
                    entry.name, entry.dtype, entry.shape, data.size(), data.size() + entry.bytes.size());
    data += entry.bytes;
  }
  header = "{" + header + "}";
  std::string length;
  for (size_t i = 0; i < 8; ++i) {
    length += static_cast<char>(header.size() >> (8 * i));
  }
  write_file_atomic(folder_ / "scaled.safetensors", length + header + data);

  const Checkpoint checkpoint(folder_ / "scaled.safetensors");
  EXPECT_THAT(checkpoint.names(), testing::ElementsAre("blocks.0.k.weight", "blocks.0.other.scale_weight",
                                                       "blocks.0.other.weight", "blocks.0.q.weight"));
  const torch::Tensor expected = torch::tensor({1.0F, 1.125F, -1.0F, 448.0F}).reshape({2, 2}) * 0.3F;
  EXPECT_TRUE(checkpoint.read("blocks.0.q.weight", torch::kFloat32).equal(expected));
  EXPECT_TRUE(checkpoint.read("blocks.0.q.weight").equal(expected.to(torch::kBFloat16)));
  EXPECT_EQ(checkpoint.read("blocks.0.k.weight").item<float>(), 1);
  EXPECT_EQ(checkpoint.read("blocks.0.other.weight").item<float>(), 2);
}

}  // namespace
}  // namespace moga
