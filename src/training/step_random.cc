#include "training/step_random.h"

#include <numeric>
#include <utility>

namespace moga {

uint64_t mix_seed(uint64_t a, uint64_t b) {
  uint64_t z = a + 0x9E3779B97F4A7C15ULL * (b + 1);
  z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27U)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31U);
}

uint64_t step_seed(uint64_t run_seed, int64_t step) {
  return mix_seed(run_seed, static_cast<uint64_t>(step));
}

std::vector<int64_t> batch_indices(uint64_t seed, int64_t step, int64_t batch, int64_t films) {
  std::vector<int64_t> indices;
  std::vector<int64_t> order(static_cast<size_t>(films));
  int64_t shuffled_pass = -1;
  for (int64_t i = 0; i < batch; ++i) {
    const int64_t position = step * batch + i;
    if (const int64_t pass = position / films; pass != shuffled_pass) {
      shuffled_pass = pass;
      std::iota(order.begin(), order.end(), 0);
      uint64_t state = mix_seed(seed, static_cast<uint64_t>(pass));
      for (int64_t j = films - 1; j > 0; --j) {
        state = mix_seed(state, static_cast<uint64_t>(j));
        std::swap(order[static_cast<size_t>(j)], order[state % static_cast<uint64_t>(j + 1)]);
      }
    }
    indices.push_back(order[static_cast<size_t>(position % films)]);
  }
  return indices;
}

}  // namespace moga
