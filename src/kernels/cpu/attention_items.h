// What passes between the scheduler and the code that is compiled for each instruction set.
#pragma once

#include <atomic>
#include <cstdint>

#include "kernels/cpu/attention_schedule.h"
#include "kernels/cpu/grouped_attention_cpu.h"

namespace moga::cpu {

constexpr float kLog2E = 1.44269504088896340736F;
constexpr float kLn2 = 0.69314718055994530942F;

struct ForwardJob {
  const ForwardArguments* arguments = nullptr;
  const Segments* segments = nullptr;
  AttentionTiles tiles;
  bool add = false;  // to what stands in out
};

// The order in which items add to shared rows. Units are taken from the queue in order, and a unit waits only
// for one that was taken before it, so nothing can wait for ever.
struct BackwardOrder {
  std::atomic<int64_t>* mine = nullptr;  // tiles of queries whose dq this unit has added
  const std::atomic<int64_t>* previous =
      nullptr;                 // of the same head's unit before; null: nothing to wait for
  bool tile_by_tile = false;   // the unit before has the same queries
  bool after_queries = false;  // some other unit may have the same queries: wait for the whole unit before
  bool after_keys = false;     // some other unit may have the same keys
};
constexpr int64_t kUnitDone = INT64_MAX;

struct BackwardJob {
  const BackwardArguments* arguments = nullptr;
  const Segments* segments = nullptr;
  AttentionTiles tiles;
};

// Returns when `progress` has reached `least`. Not inline: code for several instruction sets calls it.
void wait_for_progress(const std::atomic<int64_t>& progress, int64_t least);
void report_progress(std::atomic<int64_t>& progress, int64_t value);

// The entry points of the target in use.
struct AttentionFunctions {
  void (*forward)(const ForwardJob&, const AttentionItem&, int64_t head, float* scratch) = nullptr;
  void (*backward)(const BackwardJob&, const AttentionItem&, const BackwardOrder&, int64_t head,
                   float* scratch) = nullptr;
  // Sum over the channels of row (token, head) times other.
  float (*dot)(const Rows& x, int64_t token, int64_t head, const float* other) = nullptr;
  // Runs that many rounds of independent multiply-adds on registers and returns how many FLOPs they were.
  double (*fma_burst)(int64_t rounds) = nullptr;
  const char* (*target)() = nullptr;
};
AttentionFunctions attention_functions();

}  // namespace moga::cpu
