// --model and where the shipped model lies.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

namespace moga {

// MOGA_MODEL, else assets/toy of the source tree that this program was built in, else assets/toy from here.
inline std::string default_model() {
  namespace fs = std::filesystem;
  if (const char* model = std::getenv("MOGA_MODEL"); model != nullptr && *model != '\0') {
    return model;
  }
  std::error_code ignored;
  const fs::path program = fs::read_symlink("/proc/self/exe", ignored);
  const fs::path beside = program.parent_path().parent_path().parent_path() / "assets" / "toy";
  return !ignored && fs::exists(beside / "moga.json") ? beside.string() : "assets/toy";
}

inline constexpr const char* kModelHelp =
    "Model folder with moga.json (default: MOGA_MODEL, or the toy model that comes with the program)";

}  // namespace moga
