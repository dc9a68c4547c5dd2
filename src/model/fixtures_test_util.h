// Where the golden data of the official code lies; for tests.
#pragma once

#include <cstdlib>
#include <filesystem>

namespace moga {

// MOGA_FIXTURES, else the copies in tests/fixtures, else ../shared/fixtures beside the source folder.
inline std::filesystem::path wan_fixtures() {
  namespace fs = std::filesystem;
  if (const char* given = std::getenv("MOGA_FIXTURES"); given != nullptr) {
    return given;
  }
  const fs::path source = MOGA_SOURCE_DIR;
  const fs::path kept = source / "tests/fixtures/wan";
  return fs::exists(kept) ? kept : source / "../shared/fixtures/wan";
}

}  // namespace moga
