#include "base/digest.h"

#include <fmt/format.h>

#include <cstdint>

namespace moga {

std::string digest(std::string_view bytes) {
  constexpr uint64_t kPrime = 0x100000001b3U;
  uint64_t a = 0xcbf29ce484222325U;
  uint64_t b = ~a;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    a = (a ^ byte) * kPrime;
    b = (b ^ byte ^ (a >> 56U)) * kPrime;  // tied to the first, so that both do not collide together
  }
  return fmt::format("{:016x}{:016x}", a, b);
}

}  // namespace moga
