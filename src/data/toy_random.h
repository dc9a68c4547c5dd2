// Random numbers of the toy world: splitmix64 with integer ranges only, so that a seed makes the same film
// with every compiler and standard library (std:: distributions differ between them).
#pragma once

#include <cstdint>

namespace moga {

class ToyRandom {
 public:
  explicit ToyRandom(uint64_t seed) : state_(seed) {}

  uint64_t next() {
    state_ += 0x9E3779B97F4A7C15ULL;
    uint64_t z = state_;
    z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27U)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31U);
  }
  // Uniform in [0, bound); bound >= 1. The bias of the multiplication is below bound / 2^32.
  int64_t below(int64_t bound) {
    return static_cast<int64_t>(((next() >> 32U) * static_cast<uint64_t>(bound)) >> 32U);
  }
  // Uniform in [low, high], both ends included.
  int64_t between(int64_t low, int64_t high) { return low + below(high - low + 1); }
  // Uniform in [0, 1), exact in float.
  float unit() { return static_cast<float>(next() >> 40U) * 0x1.0p-24F; }

 private:
  uint64_t state_;
};

}  // namespace moga
