// The one exception type of the project. Libraries throw; only the command line prints and exits.
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <exception>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

namespace moga {

// Something that the user can mend: bad input, missing file, no memory. what() is one line that says what was
// found and what was expected.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

template <typename... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

// If `error` says that the memory of the machine or of a GPU ran out: what was asked for and what there was,
// as far as it says so, in one line.
std::optional<std::string> memory_shortage(const std::exception& error);

}  // namespace moga

// MOGA_CHECK(cond, "expected ..., found {}", x): throws moga::Error when `cond` is false.
#define MOGA_CHECK(cond, ...)    \
  do {                           \
    if (!(cond)) [[unlikely]] {  \
      ::moga::fail(__VA_ARGS__); \
    }                            \
  } while (false)
