// Resident memory of this process, as the kernel counts it.
#pragma once

#include <fstream>
#include <string>

namespace moga::bench {

constexpr double kGib = 1 << 30;

// "VmRSS": now; "VmHWM": the most since the start or forget_peak(). Bytes.
inline double process_bytes(const std::string& key) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(key + ":")) {
      return 1024 * std::stod(line.substr(key.size() + 1));
    }
  }
  return 0;
}

inline void forget_peak() {
  std::ofstream("/proc/self/clear_refs") << 5;
}

}  // namespace moga::bench
