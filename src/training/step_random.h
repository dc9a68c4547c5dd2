// A run's randomness: every number follows from (seed, step), so there is no generator's state to keep, and a
// resumed run repeats what the killed one would have done.
#pragma once

#include <cstdint>
#include <vector>

namespace moga {

// A number that looks random and depends on both (splitmix64).
uint64_t mix_seed(uint64_t a, uint64_t b);

// The seed of a step.
uint64_t step_seed(uint64_t run_seed, int64_t step);

// Films of one step: `batch` indices below `films`, a fresh shuffle every pass, from (seed, step) alone.
std::vector<int64_t> batch_indices(uint64_t seed, int64_t step, int64_t batch, int64_t films);

}  // namespace moga
