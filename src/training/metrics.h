// What a run tells about itself: WORK/metrics.jsonl, one JSON object a line, and WORK/tensorboard.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "training/event_file.h"

namespace moga {

class Metrics {
 public:
  // Continues the files at `first_step`: lines of that step and later, which a killed run wrote after its
  // last checkpoint, are removed, so that no step appears twice. Throws Error if they cannot be written.
  Metrics(const std::filesystem::path& work, int64_t first_step);

  // `line` has "step" and numbers, texts, and lists or objects of numbers, nested as one likes. TensorBoard
  // gets a curve a number: "name", "name/ROW/COLUMN", "name/KEY". A full disk loses lines with one warning;
  // training goes on.
  void write(const nlohmann::ordered_json& line);

 private:
  std::ofstream lines_;
  EventFile events_;
  bool warned_ = false;
};

// The lines of WORK/metrics.jsonl; a last line that is cut off is left out. Throws Error if there is no file.
std::vector<nlohmann::ordered_json> read_metrics(const std::filesystem::path& work);

}  // namespace moga
