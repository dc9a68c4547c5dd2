// A progress line on stderr: bar, count, rate, time left. On a terminal it redraws in place; elsewhere it
// prints a plain line at most every few seconds, so that logs stay readable.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace moga {

class Progress {
 public:
  // `total` steps of `unit` ("step", "frame"); `done` of them are finished already (a resumed run).
  Progress(std::string title, int64_t total, std::string unit, int64_t done = 0);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // `note` stands after the rate ("loss 0.123").
  void advance(int64_t steps = 1, const std::string& note = "");
  void finish();

  // From now on this process shows no progress: one of several processes speaks for all.
  static void silence();

  double seconds_elapsed() const;
  // From the mean rate since the start; 0 before the first step.
  double seconds_left() const;

 private:
  void draw(bool last);

  std::string title_;
  std::string unit_;
  std::string note_;
  int64_t total_;
  int64_t first_;
  int64_t done_;
  bool terminal_;
  bool finished_ = false;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point drawn_;
};

}  // namespace moga
