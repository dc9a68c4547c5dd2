// Starts this program several times on one machine and watches over the processes: the job ends well, or as a
// whole with one message that names the rank to blame.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moga {

struct Launch {
  int64_t processes = 1;
  std::vector<std::string> command;  // program and arguments
  double grace_seconds = 3;          // between asking the other ranks to end and ending them
};

// The command line of this process.
std::vector<std::string> own_command();

// Runs the command once a rank with torchrun's environment variables (address 127.0.0.1 and a free port) and
// the machine's threads shared out (MOGA_THREADS, unless it is set). SIGTERM and SIGINT go on to all ranks.
// Returns 0 when all have ended with exit code 0. After such a signal other exit codes are no failures, and
// the highest is returned. Throws Error when a rank has failed: the others are ended, and the message names
// the one that failed first and what it said.
int launch(const Launch& job);

// For a rank that fails: hands the message to the launcher, which prints one for all ranks. `by_peer`: it is
// another rank's fault. Returns false if this process has no such launcher and must print it itself.
bool tell_launcher(std::string_view message, bool by_peer);

}  // namespace moga
