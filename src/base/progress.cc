#include "base/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>

#include "base/text_util.h"

namespace moga {

using std::chrono::steady_clock;

static std::atomic<bool> silent = false;

void Progress::silence() {
  silent = true;
}

Progress::Progress(std::string title, int64_t total, std::string unit, int64_t done)
    : title_(std::move(title)),
      unit_(std::move(unit)),
      total_(total),
      first_(done),
      done_(done),
      terminal_(isatty(STDERR_FILENO) == 1),
      start_(steady_clock::now()),
      drawn_(start_) {}

Progress::~Progress() {
  finish();
}

void Progress::advance(int64_t steps, const std::string& note) {
  done_ += steps;
  note_ = note;
  const double since_drawn = std::chrono::duration<double>(steady_clock::now() - drawn_).count();
  if (since_drawn >= (terminal_ ? 0.1 : 10.0)) {
    draw(false);
  }
}

void Progress::finish() {
  if (!finished_) {
    finished_ = true;
    draw(true);
  }
}

double Progress::seconds_elapsed() const {
  return std::chrono::duration<double>(steady_clock::now() - start_).count();
}

double Progress::seconds_left() const {
  const int64_t made = done_ - first_;
  return made == 0 ? 0 : seconds_elapsed() / static_cast<double>(made) * static_cast<double>(total_ - done_);
}

void Progress::draw(bool last) {
  if (silent) {
    return;
  }
  drawn_ = steady_clock::now();
  constexpr int kWidth = 24;
  const double share =
      total_ > 0 ? std::min(1.0, static_cast<double>(done_) / static_cast<double>(total_)) : 1;
  const int filled = static_cast<int>(share * kWidth);
  const double rate = static_cast<double>(done_ - first_) / std::max(1e-9, seconds_elapsed());
  const std::string time = last ? fmt::format("took {}", human_seconds(seconds_elapsed()))
                                : fmt::format("{} left", human_seconds(seconds_left()));
  const std::string line = fmt::format("{} [{}{}] {}/{} {}s, {:.3g} {}s/s, {}{}{}", title_,
                                       std::string(filled, '#'), std::string(kWidth - filled, '.'), done_,
                                       total_, unit_, rate, unit_, time, note_.empty() ? "" : ", ", note_);
  fmt::print(stderr, "{}{}{}", terminal_ ? "\r\033[K" : "", line, terminal_ && !last ? "" : "\n");
  std::fflush(stderr);
}

}  // namespace moga
