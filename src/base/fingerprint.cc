#include "base/fingerprint.h"

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <vector>

#include "base/error.h"

namespace moga {

namespace {

constexpr uint64_t kStart = 0xCBF29CE484222325ULL;

uint64_t extend(uint64_t hash, std::string_view bytes) {
  for (const char byte : bytes) {
    hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001B3ULL;
  }
  return hash;
}

}  // namespace

std::string content_hash(std::string_view bytes) {
  return fmt::format("{:016x}", extend(kStart, bytes));
}

std::string file_fingerprint(const std::filesystem::path& path) {
  constexpr uint64_t kWhole = uint64_t{64} << 20U;
  constexpr uint64_t kBlock = uint64_t{64} << 10U;
  constexpr uint64_t kSamples = 256;
  std::error_code error;
  const uint64_t size = std::filesystem::file_size(path, error);
  std::ifstream file(path, std::ios::binary);
  MOGA_CHECK(!error && file, "cannot read {}", path.string());
  const bool whole = size <= kWhole;
  const uint64_t blocks = whole ? (size + kBlock - 1) / kBlock : kSamples;
  uint64_t hash = extend(kStart, std::to_string(size));
  std::vector<char> buffer(kBlock);
  for (uint64_t i = 0; i < blocks; ++i) {
    const uint64_t at = whole ? i * kBlock : (size - kBlock) * i / (kSamples - 1);
    const uint64_t wanted = std::min(kBlock, size - at);
    file.seekg(static_cast<std::streamoff>(at));
    file.read(buffer.data(), static_cast<std::streamsize>(wanted));
    MOGA_CHECK(file, "cannot read {}", path.string());
    hash = extend(hash, {buffer.data(), static_cast<size_t>(wanted)});
  }
  return fmt::format("{:016x}", hash);
}

}  // namespace moga
