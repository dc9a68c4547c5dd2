// --processes and --timeout: a command as several processes.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>

#include "distributed/communicator.h"

namespace moga {

class ProcessOptions {
 public:
  void add_to(CLI::App& command);

  // With --processes and no launcher around: runs this program's command line once a rank, and returns true
  // when all are done. Otherwise returns false: go on.
  bool ran_elsewhere() const;

  // The other processes of this job, or null if it is the only one. Ranks but the first fall silent from here
  // on. `device` becomes this rank's own GPU.
  std::shared_ptr<Communicator> join(torch::Device& device) const;

 private:
  int64_t processes_ = 1;
  double timeout_ = 1800;
};

// Says what share of `seconds` each process has waited for the others; all call it.
void report_waiting(const std::shared_ptr<Communicator>& ranks, double seconds);

inline bool is_first(const std::shared_ptr<Communicator>& ranks) {
  return ranks == nullptr || ranks->rank() == 0;
}

}  // namespace moga
