#include "training/metrics.h"

#include <cerrno>
#include <cmath>
#include <cstring>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/log.h"
#include "base/text_util.h"

namespace moga {

namespace fs = std::filesystem;

namespace {

fs::path metrics_file(const fs::path& work) {
  return work / "metrics.jsonl";
}

void trim_metrics(const fs::path& work, int64_t first_step) {
  if (!fs::exists(metrics_file(work))) {
    return;
  }
  std::string kept;
  for (const auto& line : read_metrics(work)) {
    if (line.value("step", first_step) < first_step) {
      kept += line.dump() + "\n";
    }
  }
  write_file_atomic(metrics_file(work), kept);
}

void add_scalars(const std::string& name, const nlohmann::ordered_json& value,
                 std::vector<std::pair<std::string, double>>& scalars) {
  if (value.is_number()) {
    scalars.emplace_back(name, value.get<double>());
  } else if (value.is_structured()) {  // keys of an object, positions of a list
    for (const auto& [key, item] : value.items()) {
      add_scalars(name + "/" + key, item, scalars);
    }
  }
}

}  // namespace

std::vector<nlohmann::ordered_json> read_metrics(const fs::path& work) {
  std::vector<nlohmann::ordered_json> lines;
  for (const std::string& text : split(read_file(metrics_file(work)), '\n')) {
    auto line = nlohmann::ordered_json::parse(text, nullptr, false);
    if (line.is_object()) {
      lines.push_back(std::move(line));
    }
  }
  return lines;
}

Metrics::Metrics(const fs::path& work, int64_t first_step)
    : lines_((trim_metrics(work, first_step), metrics_file(work)), std::ios::app),
      events_(work / "tensorboard", first_step) {
  MOGA_CHECK(lines_.good(), "cannot write {}: {}", metrics_file(work).string(), std::strerror(errno));
}

void Metrics::write(const nlohmann::ordered_json& line) {
  lines_ << line.dump() << '\n' << std::flush;
  std::vector<std::pair<std::string, double>> scalars;
  for (const auto& [name, value] : line.items()) {
    if (name != "step") {
      add_scalars(name, value, scalars);
    }
  }
  events_.write(line["step"].get<int64_t>(), scalars);
  if (!lines_.good() && !warned_) {
    warned_ = true;
    spdlog::warn("metrics cannot be written any more: {}", std::strerror(errno));
  }
}

}  // namespace moga
