#include "training/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <bit>
#include <cstring>
#include <fstream>
#include <map>

#include "base/atomic_file.h"
#include "base/error.h"
#include "training/plot.h"
#include "training/svg_chart.h"

namespace moga {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

// A reader of its own, from the format's description: checks both sums of every record.
struct ReadEvent {
  double wall_time = 0;
  int64_t step = 0;
  std::string version;
  int64_t session = 0;
  std::map<std::string, float> scalars;
};

class Bytes {
 public:
  explicit Bytes(std::string_view bytes) : rest_(bytes) {}
  bool empty() const { return rest_.empty(); }
  template <typename T>
  T fixed() {
    T value;
    std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
    return value;
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (unsigned shift = 0;; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= static_cast<uint64_t>(byte & 0x7FU) << shift;
      if (byte < 0x80) {
        return value;
      }
    }
  }
  std::string_view take(size_t count) {
    MOGA_CHECK(count <= rest_.size(), "{} bytes are missing", count - rest_.size());
    const std::string_view taken = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return taken;
  }

 private:
  std::string_view rest_;
};

std::vector<ReadEvent> read_events(const fs::path& file) {
  const auto check = [](std::string_view data, uint32_t masked) {
    const uint32_t crc = std::rotl(masked - 0xA282EAD8U, 15);
    MOGA_CHECK(crc == crc32c(data), "a record's sum is wrong");
  };
  const std::string content = read_file(file);
  std::vector<ReadEvent> events;
  for (Bytes bytes(content); !bytes.empty();) {
    const std::string_view length = bytes.take(8);
    check(length, bytes.fixed<uint32_t>());
    const std::string_view message = bytes.take(Bytes(length).fixed<uint64_t>());
    check(message, bytes.fixed<uint32_t>());
    ReadEvent event;
    for (Bytes fields(message); !fields.empty();) {
      switch (fields.varint()) {
        case 1U << 3U | 1U:
          event.wall_time = fields.fixed<double>();
          break;
        case 2U << 3U:
          event.step = static_cast<int64_t>(fields.varint());
          break;
        case 3U << 3U | 2U:
          event.version = fields.take(fields.varint());
          break;
        case 7U << 3U | 2U: {
          Bytes session(fields.take(fields.varint()));
          EXPECT_EQ(session.varint(), 1U << 3U);
          event.session = static_cast<int64_t>(session.varint());
          break;
        }
        case 5U << 3U | 2U:
          for (Bytes summary(fields.take(fields.varint())); !summary.empty();) {
            EXPECT_EQ(summary.varint(), 1U << 3U | 2U);
            Bytes value(summary.take(summary.varint()));
            EXPECT_EQ(value.varint(), 1U << 3U | 2U);
            const std::string tag(value.take(value.varint()));
            EXPECT_EQ(value.varint(), 2U << 3U | 5U);
            event.scalars[tag] = value.fixed<float>();
          }
          break;
        default:
          ADD_FAILURE() << "an unknown field";
          return events;
      }
    }
    events.push_back(event);
  }
  return events;
}

class RunMetrics : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "moga_metrics_XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    work_ = name;
  }
  void TearDown() override { fs::remove_all(work_); }
  std::vector<fs::path> event_files() const {
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(work_ / "tensorboard")) {
      files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
    return files;
  }
  fs::path work_;
};

TEST_F(RunMetrics, SumsAreThoseOfTheStandard) {
  // RFC 3720, appendix B.4, and the usual check value.
  EXPECT_EQ(crc32c("123456789"), 0xE3069283U);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAU);
  EXPECT_EQ(crc32c(std::string(32, '\xFF')), 0x62A8AB43U);
  EXPECT_EQ(crc32c(""), 0U);
}

TEST_F(RunMetrics, EventFilesReadBack) {
  {
    EventFile file(work_, 12);
    file.write(300, {{"loss", 0.25}, {"occupancy/0/1", -3}});
    file.write(int64_t{1} << 40, {{std::string(200, 'n'), 1e30}});
  }
  const auto path = fs::directory_iterator(work_)->path();
  EXPECT_THAT(path.filename().string(), HasSubstr("tfevents"));
  const auto events = read_events(path);
  ASSERT_EQ(events.size(), 4U);
  EXPECT_EQ(events[0].version, "brain.Event:2");
  EXPECT_EQ(events[1].session, 1);
  EXPECT_EQ(events[1].step, 12);
  EXPECT_EQ(events[2].step, 300);
  EXPECT_THAT(events[2].scalars, ElementsAre(Pair("loss", 0.25F), Pair("occupancy/0/1", -3.0F)));
  EXPECT_EQ(events[3].step, int64_t{1} << 40);
  EXPECT_EQ(events[3].scalars.at(std::string(200, 'n')), 1e30F);
  EXPECT_GT(events[3].wall_time, 1.7e9);
}

TEST_F(RunMetrics, AResumedRunRepeatsNoStep) {
  {
    Metrics metrics(work_, 0);
    for (int step = 0; step < 5; ++step) {
      metrics.write({{"step", step}, {"stage", "a"}, {"loss", step}, {"occupancy", {{0.25, 0.75}}}});
    }
    metrics.write({{"step", 4}, {"validation", {{"0.5", 2.0}}}});
  }
  std::ofstream(work_ / "metrics.jsonl", std::ios::app) << R"({"step": 5, "lo)";  // killed while writing
  {
    Metrics metrics(work_, 3);
    metrics.write({{"step", 3}, {"stage", "a"}, {"loss", 30}});
  }
  std::vector<double> seen;
  for (const auto& line : read_metrics(work_)) {
    seen.push_back(line["loss"]);
  }
  EXPECT_THAT(seen, ElementsAre(0, 1, 2, 30));
  const auto files = event_files();
  ASSERT_EQ(files.size(), 2U);
  const auto first = read_events(files[0]);
  EXPECT_THAT(first[2].scalars,
              ElementsAre(Pair("loss", 0.0F), Pair("occupancy/0/0", 0.25F), Pair("occupancy/0/1", 0.75F)));
  EXPECT_THAT(first.back().scalars, ElementsAre(Pair("validation/0.5", 2.0F)));
  EXPECT_EQ(read_events(files[1])[1].step, 3);  // TensorBoard drops what the first file says from step 3 on
}

TEST_F(RunMetrics, PlotsShowWhatThereIs) {
  std::vector<nlohmann::ordered_json> lines;
  for (int step = 0; step < 1000; ++step) {
    lines.push_back({{"step", step},
                     {"loss", 1.0 / (step + 1)},
                     {"balance", 2},
                     {"occupancy", {{0.5, 0.5}, {0.1, 0.9}}}});
  }
  lines.push_back({{"step", 999}, {"validation", {{"0.5", 0.7}}}});
  lines.push_back({{"step", 1000}, {"loss", nullptr}, {"skipped", "the loss is nan"}});
  const std::string svg = plot_metrics(lines, "a <run>");
  for (const char* text : {"a &lt;run&gt;", ">loss<", "balancing loss", "block 0: groups", "block 1: groups",
                           "validation: flow loss", "<polygon", "<polyline"}) {
    EXPECT_THAT(svg, HasSubstr(text));
  }
  EXPECT_EQ(svg.find("PSNR"), std::string::npos);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_LT(svg.size(), 200000U);
  EXPECT_THROW(plot_metrics({{{"step", 1}}}, "empty"), Error);
}

TEST_F(RunMetrics, TicksAreRoundAndThinnedCurvesKeepTheirMean) {
  EXPECT_THAT(round_ticks(0, 1, 4), ElementsAre(0, 0.5, 1));
  EXPECT_THAT(round_ticks(-3, 17, 4), ElementsAre(0, 5, 10, 15));
  std::vector<std::pair<double, double>> points;
  for (int i = 0; i < 1000; ++i) {
    points.emplace_back(i, i % 2);
  }
  const auto thin = thin_out(points, 100);
  ASSERT_EQ(thin.size(), 100U);
  EXPECT_DOUBLE_EQ(thin[3].second, 0.5);
  EXPECT_EQ(thin_out(points, 1000), points);
}

}  // namespace
}  // namespace moga
