// Learned shot detectors, with a network small enough to be written down byte by byte.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "base/atomic_file.h"
#include "base/error.h"
#include "data/onnx_network.h"
#include "data/shots.h"

namespace moga {
namespace {

// Protocol buffers: a field's number and type, then a varint or a length and bytes.
std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 128; value >>= 7U) {
    bytes += static_cast<char>(value | 128U);
  }
  return bytes + static_cast<char>(value);
}
std::string number(uint64_t field, uint64_t value) {
  return varint(field << 3U) + varint(value);
}
std::string bytes(uint64_t field, const std::string& value) {
  return varint(field << 3U | 2U) + varint(value.size()) + value;
}

constexpr uint64_t kFloat = 1;
constexpr uint64_t kInt64 = 7;

template <class T>
std::string tensor(const std::string& name, uint64_t type, const std::vector<uint64_t>& shape,
                   const std::vector<T>& values) {
  std::string out;
  for (const uint64_t size : shape) {
    out += number(1, size);
  }
  return out + number(2, type) + bytes(8, name) +
         bytes(9, std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)));
}
std::string value_info(const std::string& name, const std::vector<uint64_t>& shape) {
  std::string dims;
  for (const uint64_t size : shape) {
    dims += bytes(1, number(1, size));
  }
  return bytes(1, name) + bytes(2, bytes(1, number(1, kFloat) + bytes(2, dims)));
}
std::string node(const std::string& type, const std::vector<std::string>& inputs, const std::string& output) {
  std::string out;
  for (const std::string& input : inputs) {
    out += bytes(1, input);
  }
  return out + bytes(2, output) + bytes(3, type + "_" + output) + bytes(4, type);
}

// 100 frames -> a logit each: (mean of all values - 128) / 8. So bright frames are "last of their shot".
std::string bright_network(uint64_t frames) {
  constexpr uint64_t kValues = uint64_t{27} * 48 * 3;
  const std::string graph =
      bytes(1, node("Reshape", {"frames", "shape"}, "rows")) +
      bytes(1, node("MatMul", {"rows", "weight"}, "mean")) +
      bytes(1, node("Add", {"mean", "bias"}, "logits")) + bytes(2, "bright") +
      bytes(5, tensor<int64_t>("shape", kInt64, {2},
                               {static_cast<int64_t>(frames), static_cast<int64_t>(kValues)})) +
      bytes(5, tensor<float>("weight", kFloat, {kValues, 1},
                             std::vector<float>(kValues, 1.0F / (8 * static_cast<float>(kValues))))) +
      bytes(5, tensor<float>("bias", kFloat, {1}, {-16})) +
      bytes(11, value_info("frames", {1, frames, 27, 48, 3})) + bytes(12, value_info("logits", {frames, 1}));
  return number(1, 7) + bytes(8, number(2, 13)) + bytes(7, graph);
}

class ShotNetworkTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / fmt::format("moga_shot_network_{}", getpid());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::filesystem::path write(const std::string& network) const {
    write_file_atomic(folder_ / "net.onnx", network);
    return folder_ / "net.onnx";
  }
  std::filesystem::path folder_;
};

std::vector<cv::Mat> grey_film(int frames, const std::vector<int>& bright) {
  std::vector<cv::Mat> film;
  for (int i = 0; i < frames; ++i) {
    const bool is_bright = std::find(bright.begin(), bright.end(), i) != bright.end();
    const int level = is_bright ? 220 : 60;
    film.emplace_back(54, 96, CV_8UC3, cv::Scalar::all(level - 30));
    film.back().colRange(48, 96).setTo(cv::Scalar::all(level + 30));  // not plain
  }
  return film;
}

TEST_F(ShotNetworkTest, RunsAnOnnxFile) {
  const OnnxNetwork network(write(bright_network(100)));
  const std::vector<int> shape = {1, 100, 27, 48, 3};
  cv::Mat input(shape, CV_32F, cv::Scalar(144));
  const cv::Mat logits = network.run(input);
  ASSERT_EQ(logits.total(), 100U);
  EXPECT_NEAR(logits.ptr<float>()[7], 2, 1e-3);
  EXPECT_EQ(network.outputs().size(), 1U);
}

TEST_F(ShotNetworkTest, HighAnswersBecomeBoundaries) {
  ShotSettings settings;
  settings.network = write(bright_network(100)).string();
  // A single high frame is a cut after it; a run is a transition. Windows meet at 50, 100, ...
  const std::vector<ShotBoundary> found =
      detect_shots(grey_film(260, {0, 49, 99, 100, 101, 102, 180, 259}), settings);
  ASSERT_EQ(found.size(), 4U);
  EXPECT_EQ(found[0].frame, 1);
  EXPECT_EQ(found[1].frame, 50);
  EXPECT_EQ(found[1].kind, BoundaryKind::kCut);
  EXPECT_GT(found[1].confidence, 0.99);
  EXPECT_EQ(found[2].kind, BoundaryKind::kDissolve);
  EXPECT_EQ(found[2].begin, 100);
  EXPECT_EQ(found[2].end, 103);
  EXPECT_TRUE(found[2].overlapped());
  EXPECT_EQ(found[3].frame, 181);
}

TEST_F(ShotNetworkTest, WrongFilesAreErrors) {
  EXPECT_THROW(OnnxNetwork(folder_ / "missing.onnx"), Error);
  EXPECT_THROW(OnnxNetwork(write("not a network")), Error);
  ShotSettings settings;
  settings.network = write(bright_network(50)).string();  // answers for 50 frames where 100 are asked
  EXPECT_THROW(detect_shots(grey_film(120, {}), settings), Error);
}

}  // namespace
}  // namespace moga
