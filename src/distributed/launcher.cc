#include "distributed/launcher.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <optional>
#include <utility>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/text_util.h"
#include "base/threads.h"
#include "distributed/ranks.h"

namespace moga {

namespace {

using LaunchClock = std::chrono::steady_clock;

constexpr const char* kReportVariable = "MOGA_FAILURE_FD";
constexpr int kPollMilliseconds = 20;
// How long ranks that blame others wait for the one that is to blame to end.
constexpr double kCulpritSeconds = 2;

volatile std::sig_atomic_t forwarded_signal = 0;

// Notes SIGTERM and SIGINT while it lives.
class SignalNotes {
 public:
  SignalNotes() {
    forwarded_signal = 0;
    previous_term_ = std::signal(SIGTERM, [](int number) { forwarded_signal = number; });
    previous_int_ = std::signal(SIGINT, [](int number) { forwarded_signal = number; });
  }
  ~SignalNotes() {
    std::signal(SIGTERM, previous_term_);
    std::signal(SIGINT, previous_int_);
  }
  SignalNotes(const SignalNotes&) = delete;
  SignalNotes& operator=(const SignalNotes&) = delete;

 private:
  void (*previous_term_)(int);
  void (*previous_int_)(int);
};

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() { reset(); }
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  int get() const { return fd_; }
  void reset() {
    if (fd_ >= 0) {
      close(std::exchange(fd_, -1));
    }
  }

 private:
  int fd_;
};

// A port that is free now. Another program may take it before rank 0 does, which then says so.
int64_t free_port() {
  const Descriptor socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  MOGA_CHECK(socket.get() >= 0 && bind(socket.get(), generic, size) == 0 &&
                 getsockname(socket.get(), generic, &size) == 0,
             "cannot find a free port on 127.0.0.1: {}", std::strerror(errno));
  return ntohs(address.sin_port);
}

struct Child {
  int64_t rank = 0;
  pid_t pid = 0;
  Descriptor reports{-1};  // reading end
  std::string report = {};
  std::optional<int> status = {};  // as waitpid() gives it

  // Whether it ended otherwise than `interrupted` ranks may, which have an exit code for that.
  bool failed(bool interrupted) const {
    return status && *status != 0 && !(interrupted && WIFEXITED(*status) && report.empty());
  }
  bool blames_peer() const { return report.starts_with('p'); }
};

std::vector<std::string> child_environment(const Launch& job, int64_t rank, int64_t port, int report_fd) {
  std::vector<std::string> variables;
  const auto ours = [](std::string_view entry) {
    for (const char* name : {"RANK=", "WORLD_SIZE=", "LOCAL_RANK=", "LOCAL_WORLD_SIZE=", "MASTER_ADDR=",
                             "MASTER_PORT=", "MOGA_FAILURE_FD="}) {
      if (entry.starts_with(name)) {
        return true;
      }
    }
    return false;
  };
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (!ours(*entry)) {
      variables.emplace_back(*entry);
    }
  }
  variables.push_back(fmt::format("RANK={}", rank));
  variables.push_back(fmt::format("LOCAL_RANK={}", rank));
  variables.push_back(fmt::format("WORLD_SIZE={}", job.processes));
  variables.push_back(fmt::format("LOCAL_WORLD_SIZE={}", job.processes));
  variables.emplace_back("MASTER_ADDR=127.0.0.1");
  variables.push_back(fmt::format("MASTER_PORT={}", port));
  variables.push_back(fmt::format("{}={}", kReportVariable, report_fd));
  for (const char* quiet : {"GLOG_minloglevel=3", "TORCH_CPP_LOG_LEVEL=ERROR"}) {  // we report failures
    if (!process_environment(std::string(quiet, std::strchr(quiet, '=')).c_str())) {
      variables.emplace_back(quiet);
    }
  }
  if (!process_environment("MOGA_THREADS")) {
    variables.push_back(fmt::format("MOGA_THREADS={}", std::max<int64_t>(1, thread_count() / job.processes)));
  }
  return variables;
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> result;
  for (std::string& text : strings) {
    result.push_back(text.data());
  }
  result.push_back(nullptr);
  return result;
}

Child start_child(const Launch& job, int64_t rank, int64_t port) {
  std::array<int, 2> ends = {};
  MOGA_CHECK(pipe2(ends.data(), O_CLOEXEC) == 0, "cannot make a pipe: {}", std::strerror(errno));
  Child child;
  child.rank = rank;
  Descriptor writing(ends[1]);
  // All memory is taken before the fork: between fork and exec only system calls are safe.
  auto command = job.command;
  auto environment = child_environment(job, rank, port, writing.get());
  const auto arguments = pointers(command);
  const auto variables = pointers(environment);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  MOGA_CHECK(pid >= 0, "cannot start rank {}: {}", rank, std::strerror(errno));
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);  // no rank outlives its launcher
    if (getppid() != parent) {
      _exit(1);
    }
    std::signal(SIGTERM, SIG_DFL);
    std::signal(SIGINT, SIG_DFL);
    fcntl(writing.get(), F_SETFD, 0);
    execve(arguments[0], arguments.data(), variables.data());
    _exit(127);
  }
  return {.rank = rank, .pid = pid, .reports = Descriptor(ends[0])};
}

void read_report(Child& child) {
  std::array<char, 4096> buffer = {};
  pollfd ready = {.fd = child.reports.get(), .events = POLLIN, .revents = 0};
  while (child.reports.get() >= 0 && poll(&ready, 1, 0) > 0) {
    const ssize_t count = read(child.reports.get(), buffer.data(), buffer.size());
    if (count <= 0) {
      child.reports.reset();
      return;
    }
    child.report.append(buffer.data(), static_cast<size_t>(count));
  }
}

// Takes in what has happened since the last call.
void look(std::vector<Child>& children) {
  for (Child& child : children) {
    int status = 0;
    if (!child.status && waitpid(child.pid, &status, WNOHANG) == child.pid) {
      child.status = status;
    }
    read_report(child);
  }
}

void send_all(const std::vector<Child>& children, int number) {
  for (const Child& child : children) {
    if (!child.status) {
      kill(child.pid, number);
    }
  }
}

void pause_briefly() {
  poll(nullptr, 0, kPollMilliseconds);
}

double seconds_since(LaunchClock::time_point start) {
  return std::chrono::duration<double>(LaunchClock::now() - start).count();
}

bool all_ended(const std::vector<Child>& children) {
  return std::all_of(children.begin(), children.end(), [](const Child& child) { return child.status; });
}

void end_all(std::vector<Child>& children, double grace_seconds) {
  send_all(children, SIGTERM);
  const auto start = LaunchClock::now();
  while (!all_ended(children)) {
    if (seconds_since(start) > grace_seconds) {
      send_all(children, SIGKILL);
    }
    pause_briefly();
    look(children);
  }
}

// The rank that failed by itself; while there is none, those that blame others do not count.
const Child* culprit(const std::vector<Child>& children, bool interrupted, bool even_if_it_blames) {
  for (const Child& child : children) {
    if (child.failed(interrupted) && (even_if_it_blames || !child.blames_peer())) {
      return &child;
    }
  }
  return nullptr;
}

std::string describe(const Child& child, int64_t processes) {
  const std::string who = fmt::format("rank {} of {}", child.rank, processes);
  if (child.report.size() > 1) {
    return child.blames_peer() ? child.report.substr(1) : fmt::format("{}: {}", who, child.report.substr(1));
  }
  if (WIFSIGNALED(*child.status)) {
    return fmt::format("{} was ended by signal {} ({}); the other ranks were stopped", who,
                       WTERMSIG(*child.status), strsignal(WTERMSIG(*child.status)));
  }
  return fmt::format("{} ended with exit code {}; the other ranks were stopped", who,
                     WEXITSTATUS(*child.status));
}

}  // namespace

std::vector<std::string> own_command() {
  std::vector<std::string> command = split(read_file("/proc/self/cmdline"), '\0');
  if (!command.empty() && command.back().empty()) {
    command.pop_back();  // the last argument ends in a zero too
  }
  command.at(0) =
      std::filesystem::read_symlink("/proc/self/exe");  // the name may be relative, or found in PATH
  return command;
}

int launch(const Launch& job) {
  MOGA_CHECK(job.processes >= 1 && job.processes <= 1024, "expected 1 to 1024 processes, found {}",
             job.processes);
  const SignalNotes notes;
  const int64_t port = free_port();
  std::vector<Child> children;
  try {
    for (int64_t rank = 0; rank < job.processes; ++rank) {
      children.push_back(start_child(job, rank, port));
    }
  } catch (const Error&) {
    end_all(children, 0);
    throw;
  }
  std::optional<LaunchClock::time_point> trouble;
  bool interrupted = false;
  while (true) {
    look(children);
    if (const int number = std::exchange(forwarded_signal, 0); number != 0) {
      send_all(children, number);
      interrupted = true;
    }
    const Child* first = culprit(children, interrupted, trouble && seconds_since(*trouble) > kCulpritSeconds);
    if (first != nullptr) {
      const std::string message = describe(*first, job.processes);
      end_all(children, job.grace_seconds);
      throw Error(message);
    }
    if (!trouble && culprit(children, interrupted, true) != nullptr) {
      trouble = LaunchClock::now();
    }
    if (!trouble && all_ended(children)) {
      int code = 0;
      for (const Child& child : children) {
        code = std::max(code, WEXITSTATUS(*child.status));
      }
      return code;
    }
    pause_briefly();
  }
}

bool tell_launcher(std::string_view message, bool by_peer) {
  const auto descriptor = process_environment(kReportVariable);
  if (!descriptor) {
    return false;
  }
  const std::string report = (by_peer ? "p" : "o") + std::string(message);
  const ssize_t written = write(std::atoi(descriptor->c_str()), report.data(), report.size());
  return written == static_cast<ssize_t>(report.size());
}

}  // namespace moga
