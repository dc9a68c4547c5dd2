// SIGINT and SIGTERM as a request that a loop looks at between two steps.
#pragma once

namespace moga {

// While one lives, the signals do not end the process.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;
  bool requested() const;

 private:
  void (*previous_int_)(int);
  void (*previous_term_)(int);
};

}  // namespace moga
