// Scalars for TensorBoard: its event files, written without TensorBoard.
//
// A file is a run of TFRecords: length (uint64), its masked CRC-32C, a protobuf message, the message's masked
// CRC-32C, all little-endian. The messages are tensorflow.Event (event.proto: wall_time 1, step 2,
// file_version 3, summary 5, session_log 7) with tensorflow.Summary (value 1: tag 1, simple_value 2).
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moga {

// CRC-32C (Castagnoli, RFC 3720).
uint32_t crc32c(std::string_view bytes);

class EventFile {
 public:
  // A new file in `folder`, beside those of earlier runs. TensorBoard drops what they tell about `first_step`
  // and later (a killed run logged it, and this one does it again). Throws Error if it cannot be written.
  EventFile(const std::filesystem::path& folder, int64_t first_step);

  // One point of each curve.
  void write(int64_t step, const std::vector<std::pair<std::string, double>>& scalars);
  const std::filesystem::path& path() const { return path_; }

 private:
  void write_record(const std::string& message);

  std::filesystem::path path_;
  std::ofstream stream_;
};

}  // namespace moga
