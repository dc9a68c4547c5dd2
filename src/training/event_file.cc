#include "training/event_file.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "base/error.h"

namespace moga {

namespace {

static_assert(std::endian::native == std::endian::little, "event files are little-endian");

template <typename T>
std::string raw(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

// The protobuf wire format: a field's number and kind, then its value.
enum class Wire : uint64_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7U) {
    bytes += static_cast<char>((value & 0x7FU) | 0x80U);
  }
  return bytes + static_cast<char>(value);
}

std::string field(uint64_t number, Wire wire, const std::string& value) {
  return varint(number << 3U | static_cast<uint64_t>(wire)) +
         (wire == Wire::kBytes ? varint(value.size()) + value : value);
}

std::string event(int64_t step, const std::string& content) {
  const double now =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  return field(1, Wire::kFixed64, raw(now)) + field(2, Wire::kVarint, varint(static_cast<uint64_t>(step))) +
         content;
}

// As TFRecords store it, so that a CRC over bytes with a CRC in them stays meaningful.
std::string masked_crc(std::string_view bytes) {
  const uint32_t crc = crc32c(bytes);
  return raw(std::rotr(crc, 15) + 0xA282EAD8U);
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  static const auto kTable = [] {
    std::array<uint32_t, 256> table{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) {
        value = (value >> 1U) ^ ((value & 1U) != 0 ? 0x82F63B78U : 0U);
      }
      table[i] = value;
    }
    return table;
  }();
  uint32_t crc = ~0U;
  for (const char c : bytes) {
    crc = kTable[(crc ^ static_cast<unsigned char>(c)) & 0xFFU] ^ (crc >> 8U);
  }
  return ~crc;
}

EventFile::EventFile(const std::filesystem::path& folder, int64_t first_step) {
  std::array<char, 256> host{};
  ::gethostname(host.data(), host.size() - 1);
  static std::atomic<int> counter{0};  // one process may train several times within a second
  const auto seconds =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
          .count();
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  path_ = folder /
          fmt::format("events.out.tfevents.{:010}.{}.{}.{}", seconds, host.data(), ::getpid(), counter++);
  stream_.open(path_, std::ios::binary);
  MOGA_CHECK(stream_.good(), "cannot write {}: {}", path_.string(), std::strerror(errno));
  write_record(event(0, field(3, Wire::kBytes, "brain.Event:2")));
  constexpr uint64_t kStart = 1;  // SessionLog.START
  write_record(event(first_step, field(7, Wire::kBytes, field(1, Wire::kVarint, varint(kStart)))));
}

void EventFile::write(int64_t step, const std::vector<std::pair<std::string, double>>& scalars) {
  std::string summary;
  for (const auto& [tag, value] : scalars) {
    summary += field(1, Wire::kBytes,
                     field(1, Wire::kBytes, tag) + field(2, Wire::kFixed32, raw(static_cast<float>(value))));
  }
  write_record(event(step, field(5, Wire::kBytes, summary)));
}

void EventFile::write_record(const std::string& message) {
  const std::string length = raw(static_cast<uint64_t>(message.size()));
  stream_ << length << masked_crc(length) << message << masked_crc(message) << std::flush;
}

}  // namespace moga
