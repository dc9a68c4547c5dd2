#include "training/stop_signal.h"

#include <csignal>

namespace moga {

static volatile std::sig_atomic_t stop_requested = 0;

static void request_stop(int) {
  stop_requested = 1;
}

StopSignal::StopSignal() {
  stop_requested = 0;
  previous_int_ = std::signal(SIGINT, request_stop);
  previous_term_ = std::signal(SIGTERM, request_stop);
}

StopSignal::~StopSignal() {
  std::signal(SIGINT, previous_int_);
  std::signal(SIGTERM, previous_term_);
}

bool StopSignal::requested() const {
  return stop_requested != 0;
}

}  // namespace moga
