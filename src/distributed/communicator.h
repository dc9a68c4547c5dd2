// Collective operations between the processes of a job, over libtorch's c10d: Gloo for tensors on CPUs (and,
// without NCCL, on GPUs), NCCL on GPUs. What Gloo of libtorch 1.13 lacks is composed here.
//
// Every rank of a communicator calls the same operations in the same order. `what` names the operation in
// messages ("gradients"). Tensors that only move may have any dtype; sums need float32, float64 or int64.
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "distributed/ranks.h"

namespace moga {

// An operation failed because of another rank: it ended, or did not come within the time-out.
class PeerError : public Error {
 public:
  using Error::Error;
};

// An operation under way. wait() must be called, once; the tensors given to the operation must not be touched
// before.
class Pending {
 public:
  explicit Pending(std::function<void()> wait) : wait_(std::move(wait)) {}
  void wait() {
    std::exchange(wait_, [] {})();
  }

 private:
  std::function<void()> wait_;
};

struct CommunicatorOptions {
  torch::Device device = torch::kCPU;
  double timeout_seconds = 1800;       // of an operation
  double start_timeout_seconds = 300;  // until all ranks are there
};

class Communicator {
 public:
  // Meets the other ranks. Throws Error if the port is taken, and names the ranks that did not come in time.
  static std::shared_ptr<Communicator> connect(const Ranks& ranks, const CommunicatorOptions& options = {});
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int64_t rank() const;
  int64_t size() const;
  // Seconds that this rank has spent waiting in operations of this communicator and of its groups: ranks that
  // wait long have little to do.
  double seconds_waited() const;

  // A communicator of some ranks of this one, in that order. Called by the members alone; `name` is theirs.
  std::shared_ptr<Communicator> group(const std::string& name, const std::vector<int64_t>& members) const;

  // Sum over the ranks, in place; bit-equal on all of them.
  void all_reduce(torch::Tensor tensor, const char* what) {
    all_reduce_start(std::move(tensor), what).wait();
  }
  Pending all_reduce_start(torch::Tensor tensor, const char* what);

  // The tensor of rank `root`, in place; all ranks give one of its shape and dtype.
  void broadcast(torch::Tensor tensor, int64_t root, const char* what);
  // The same where only the root knows shape and dtype; an undefined tensor stays undefined. The result is on
  // the communicator's device.
  torch::Tensor broadcast_any(const torch::Tensor& tensor, int64_t root, const char* what);
  std::string broadcast_text(const std::string& text, int64_t root, const char* what);

  // Rows [counts[rank], ...] of every rank, one after another: [sum of counts, ...].
  torch::Tensor all_gather(const torch::Tensor& rows, const std::vector<int64_t>& counts, const char* what);

  // `values` [sum of counts] is cut into one piece a rank; returns this rank's piece [counts[rank]] of the
  // sum over the ranks. One-dimensional.
  torch::Tensor reduce_scatter(const torch::Tensor& values, const std::vector<int64_t>& counts,
                               const char* what);
  // Writes it into `piece`.
  Pending reduce_scatter_start(torch::Tensor values, const std::vector<int64_t>& counts, torch::Tensor piece,
                               const char* what);

  // `values` [sum of send] holds a piece for every rank; returns the pieces that they hold for this one
  // [sum of receive]. One-dimensional; pieces may be empty.
  torch::Tensor all_to_all(const torch::Tensor& values, const std::vector<int64_t>& send,
                           const std::vector<int64_t>& receive, const char* what);

  void barrier(const char* what);

  // Runs `work` on rank 0 alone and then returns on all ranks, however long it takes: no time-out counts, but
  // a rank 0 that dies is noticed.
  void first_alone(const std::function<void()>& work, const char* what);

  // Throws Error on all ranks, naming those that differ from rank 0, unless `text` is equal on all.
  void check_equal(const std::string& text, const char* what);

 private:
  struct Impl;
  explicit Communicator(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// `count` things shared out over `parts` as evenly as possible, the larger parts first.
std::vector<int64_t> even_counts(int64_t count, int64_t parts);

}  // namespace moga
