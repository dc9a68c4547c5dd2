#include "distributed/communicator.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <exception>
#include <numeric>
#include <thread>

#include "base/digest.h"
#include "distributed/engine.h"

namespace moga {

namespace {

using WaitClock = std::chrono::steady_clock;
using Work = c10::intrusive_ptr<c10d::Work>;

int64_t total(const std::vector<int64_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

// The same memory as bytes: what only moves need not be a number that the engine knows (Gloo has no
// bfloat16).
torch::Tensor as_bytes(const torch::Tensor& contiguous) {
  return contiguous.view(-1).view(torch::kByte);
}

std::vector<uint8_t> store_value(const std::string& text) {
  return {text.begin(), text.end()};
}

std::string rank_list(const std::vector<int64_t>& ranks) {
  return fmt::format("rank{} {}", ranks.size() == 1 ? "" : "s", fmt::join(ranks, ", "));
}

}  // namespace

struct Communicator::Impl {
  int64_t rank = 0;
  int64_t size = 1;
  std::vector<int64_t> world_ranks;  // of the members, for messages
  std::chrono::milliseconds timeout{};
  bool local = false;
  torch::Device device = torch::kCPU;
  StorePtr world_store;
  StorePtr store;
  EnginePtr gloo;
  EnginePtr nccl;                                                // or nullptr
  std::shared_ptr<double> waited = std::make_shared<double>(0);  // seconds; groups share it
  int64_t alone_count = 0;
  mutable bool failed = false;

  void make_engines() {
    gloo = make_gloo(c10::make_intrusive<c10d::PrefixStore>("gloo", store), rank, size, timeout, local);
    if (device.is_cuda()) {
      nccl = make_nccl(c10::make_intrusive<c10d::PrefixStore>("nccl", store), rank, size, timeout);
    }
  }

  Engine& engine(const torch::Tensor& tensor) const { return tensor.is_cuda() && nccl ? *nccl : *gloo; }

  // Members whose note `key` is not in the store after `patience`.
  std::vector<int64_t> without_note(const std::string& key, std::chrono::milliseconds patience) const {
    const auto end = WaitClock::now() + patience;
    std::vector<int64_t> missing = world_ranks;
    while (true) {
      std::erase_if(missing,
                    [&](int64_t member) { return world_store->check({fmt::format("{}/{}", key, member)}); });
      if (missing.empty() || WaitClock::now() > end) {
        return missing;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  }

  // Ranks that noticed the failure say so in the store; those that do not are the ones to look at.
  [[noreturn]] void fail_because(const char* what, const std::exception& error) const {
    constexpr std::chrono::milliseconds kPatience(3000);
    failed = true;
    std::string who;
    try {
      world_store->set(fmt::format("failed/{}", world_ranks[static_cast<size_t>(rank)]), store_value(what));
      const auto missing = without_note("failed", std::min(kPatience, timeout));
      who = missing.empty() ? "all ranks still answer" : "no answer from " + rank_list(missing);
    } catch (const std::exception&) {
      who = "no answer from rank 0";  // it holds the store
    }
    throw PeerError(fmt::format("rank {}: '{}' failed: {} ({}; time-out {} s)",
                                world_ranks[static_cast<size_t>(rank)], what, who, first_line(error),
                                static_cast<double>(timeout.count()) / 1000));
  }

  // Starts an operation and returns how to wait for it. `keep` lives until then.
  template <class Start>
  Pending start(const char* what, Start&& begin, std::vector<torch::Tensor> keep,
                std::function<void()> finish = {}) {
    Work work;
    try {
      work = begin();
    } catch (const std::exception& error) {
      fail_because(what, error);
    }
    return Pending([this, what, work, keep = std::move(keep), finish = std::move(finish)] {
      const auto begun = WaitClock::now();
      try {
        work->wait();
      } catch (const std::exception& error) {
        fail_because(what, error);
      }
      *waited += std::chrono::duration<double>(WaitClock::now() - begun).count();
      if (finish) {
        finish();
      }
    });
  }

  Pending exchange(const torch::Tensor& input, torch::Tensor output, std::vector<int64_t> send,
                   std::vector<int64_t> receive, const char* what, std::function<void()> finish = {}) {
    torch::Tensor in = as_bytes(input);
    torch::Tensor out = as_bytes(output);
    for (std::vector<int64_t>* counts : {&send, &receive}) {
      for (int64_t& count : *counts) {
        count *= input.element_size();
      }
    }
    return start(
        what, [&] { return engine(in).alltoall_base(out, in, receive, send); }, {in, out, input, output},
        std::move(finish));
  }
};

Communicator::Communicator(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Communicator::~Communicator() {
  if (impl_->failed) {
    // Their threads may wait for a lost rank until the time-out; the process is about to end anyway.
    static_cast<void>(impl_->gloo.release());
    static_cast<void>(impl_->nccl.release());
  } else if (impl_->nccl && std::uncaught_exceptions() == 0) {
    try {
      close_nccl(*impl_->nccl);
    } catch (const std::exception&) {
      // Nothing is lost: the last operation is over.
    }
  }
}

int64_t Communicator::rank() const {
  return impl_->rank;
}
int64_t Communicator::size() const {
  return impl_->size;
}
double Communicator::seconds_waited() const {
  return *impl_->waited;
}

std::shared_ptr<Communicator> Communicator::connect(const Ranks& ranks, const CommunicatorOptions& options) {
  const auto milliseconds = [](double seconds) {
    MOGA_CHECK(seconds > 0 && seconds < 1e7, "time-outs between processes must be positive, found {} s",
               seconds);
    return std::chrono::milliseconds(std::max<int64_t>(1, std::llround(seconds * 1000)));
  };
  auto impl = std::make_unique<Impl>();
  impl->rank = ranks.rank;
  impl->size = ranks.size;
  impl->world_ranks.resize(static_cast<size_t>(ranks.size));
  std::iota(impl->world_ranks.begin(), impl->world_ranks.end(), 0);
  impl->timeout = milliseconds(options.timeout_seconds);
  impl->local = ranks.address == "127.0.0.1" || ranks.address == "localhost";
  impl->device = options.device;
  const auto patience = milliseconds(options.start_timeout_seconds);
  impl->store = open_store(ranks, patience);
  impl->world_store = impl->store;
  try {
    impl->store->set(fmt::format("here/{}", ranks.rank), store_value(ranks.launcher));
    const auto missing = impl->without_note("here", patience);
    if (!missing.empty()) {
      throw PeerError(fmt::format("rank {} waited {} s for {} of {} at {}:{}; were all started?", ranks.rank,
                                  options.start_timeout_seconds, rank_list(missing), ranks.size,
                                  ranks.address, ranks.port));
    }
    impl->make_engines();
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw PeerError(
        fmt::format("rank {}: the processes did not find each other: {}", ranks.rank, first_line(error)));
  }
  return std::shared_ptr<Communicator>(new Communicator(std::move(impl)));
}

std::shared_ptr<Communicator> Communicator::group(const std::string& name,
                                                  const std::vector<int64_t>& members) const {
  const auto place = std::find(members.begin(), members.end(), rank());
  MOGA_CHECK(place != members.end(), "group '{}': rank {} is no member", name, rank());
  auto impl = std::make_unique<Impl>();
  impl->rank = place - members.begin();
  impl->size = static_cast<int64_t>(members.size());
  for (const int64_t member : members) {
    impl->world_ranks.push_back(impl_->world_ranks.at(static_cast<size_t>(member)));
  }
  impl->timeout = impl_->timeout;
  impl->local = impl_->local;
  impl->device = impl_->device;
  impl->world_store = impl_->world_store;
  impl->waited = impl_->waited;
  impl->store = c10::make_intrusive<c10d::PrefixStore>(name, impl_->store);
  try {
    impl->make_engines();
  } catch (const std::exception& error) {
    impl->fail_because(name.c_str(), error);
  }
  return std::shared_ptr<Communicator>(new Communicator(std::move(impl)));
}

Pending Communicator::all_reduce_start(torch::Tensor tensor, const char* what) {
  MOGA_CHECK(tensor.is_contiguous(), "all-reduce of {}: the tensor is not contiguous", what);
  if (size() == 1 || tensor.numel() == 0) {
    return Pending([] {});
  }
  std::vector<torch::Tensor> list = {tensor.view(-1)};
  return impl_->start(what, [&] { return impl_->engine(tensor).allreduce(list); }, {tensor});
}

void Communicator::broadcast(torch::Tensor tensor, int64_t root, const char* what) {
  MOGA_CHECK(tensor.is_contiguous(), "broadcast of {}: the tensor is not contiguous", what);
  if (size() == 1 || tensor.numel() == 0) {
    return;
  }
  std::vector<torch::Tensor> list = {as_bytes(tensor)};
  c10d::BroadcastOptions options;
  options.rootRank = static_cast<int>(root);
  impl_->start(what, [&] { return impl_->engine(tensor).broadcast(list, options); }, {tensor}).wait();
}

torch::Tensor Communicator::broadcast_any(const torch::Tensor& tensor, int64_t root, const char* what) {
  constexpr int64_t kMostDims = 8;
  torch::Tensor header = torch::zeros({2 + kMostDims}, torch::kInt64);  // dims or -1, dtype, sizes
  auto* numbers = header.data_ptr<int64_t>();
  if (rank() == root) {
    numbers[0] = tensor.defined() ? tensor.dim() : -1;
    if (tensor.defined()) {
      MOGA_CHECK(tensor.dim() <= kMostDims, "broadcast of {}: at most {} dimensions, found {}", what,
                 kMostDims, tensor.dim());
      numbers[1] = static_cast<int64_t>(tensor.scalar_type());
      std::copy(tensor.sizes().begin(), tensor.sizes().end(), numbers + 2);
    }
  }
  broadcast(header, root, what);
  if (numbers[0] < 0) {
    return {};
  }
  torch::Tensor result =
      rank() == root
          ? tensor.to(impl_->device).contiguous()
          : torch::empty(
                torch::IntArrayRef(numbers + 2, static_cast<size_t>(numbers[0])),
                torch::TensorOptions(impl_->device).dtype(static_cast<torch::ScalarType>(numbers[1])));
  broadcast(result, root, what);
  return result;
}

std::string Communicator::broadcast_text(const std::string& text, int64_t root, const char* what) {
  torch::Tensor bytes = torch::empty({static_cast<int64_t>(text.size())}, torch::kByte);
  std::copy(text.begin(), text.end(), bytes.data_ptr<uint8_t>());
  const torch::Tensor received =
      broadcast_any(rank() == root ? bytes : torch::Tensor(), root, what).to(torch::kCPU);
  const auto* begin = received.data_ptr<uint8_t>();
  return {begin, begin + received.numel()};
}

torch::Tensor Communicator::all_gather(const torch::Tensor& rows, const std::vector<int64_t>& counts,
                                       const char* what) {
  MOGA_CHECK(
      static_cast<int64_t>(counts.size()) == size() && rows.dim() > 0 &&
          rows.size(0) == counts[static_cast<size_t>(rank())],
      "all-gather of {}: rank {} of {} expected {} counts and its own rows, found {} counts and {} rows",
      what, rank(), size(), size(), counts.size(), rows.dim() > 0 ? rows.size(0) : 0);
  if (size() == 1) {
    return rows.contiguous();
  }
  // Gathered with as many rows everywhere; the ends of those that have fewer are cut off afterwards.
  const int64_t most = *std::max_element(counts.begin(), counts.end());
  auto padded_sizes = rows.sizes().vec();
  padded_sizes[0] = most;
  torch::Tensor mine = rows.contiguous();
  if (rows.size(0) < most) {
    mine = torch::zeros(padded_sizes, rows.options());
    mine.narrow(0, 0, rows.size(0)).copy_(rows);
  }
  std::vector<torch::Tensor> parts;
  std::vector<std::vector<torch::Tensor>> outputs(1);
  for (int64_t r = 0; r < size(); ++r) {
    parts.push_back(torch::empty(padded_sizes, rows.options()));
    outputs[0].push_back(as_bytes(parts.back()));
  }
  if (mine.numel() > 0) {
    std::vector<torch::Tensor> inputs = {as_bytes(mine)};
    impl_->start(what, [&] { return impl_->engine(mine).allgather(outputs, inputs); }, {mine}).wait();
  }
  for (size_t r = 0; r < parts.size(); ++r) {
    parts[r] = parts[r].narrow(0, 0, counts[r]);
  }
  return torch::cat(parts);
}

Pending Communicator::reduce_scatter_start(torch::Tensor values, const std::vector<int64_t>& counts,
                                           torch::Tensor piece, const char* what) {
  const auto me = static_cast<size_t>(rank());
  MOGA_CHECK(static_cast<int64_t>(counts.size()) == size() && values.dim() == 1 && values.is_contiguous() &&
                 values.numel() == total(counts) && piece.is_contiguous() && piece.numel() == counts[me],
             "reduce-scatter of {}: {} values do not fit counts {}", what, values.numel(),
             fmt::join(counts, ", "));
  if (size() == 1) {
    piece.copy_(values);
    return Pending([] {});
  }
  const bool even = std::all_of(counts.begin(), counts.end(), [&](int64_t n) { return n == counts[0]; });
  if (even && values.is_cuda() && impl_->nccl) {
    return impl_->start(what, [&] { return impl_->nccl->_reduce_scatter_base(piece, values); },
                        {values, piece});
  }
  // Every rank sends each piece to its owner, who adds them up in the order of the ranks.
  const std::vector<int64_t> receive(counts.size(), counts[me]);
  const torch::Tensor parts = torch::empty({size(), counts[me]}, values.options());
  return impl_->exchange(values, parts, counts, receive, what, [parts, piece]() mutable {
    piece.copy_(parts[0]);
    for (int64_t r = 1; r < parts.size(0); ++r) {
      piece.add_(parts[r]);
    }
  });
}

torch::Tensor Communicator::reduce_scatter(const torch::Tensor& values, const std::vector<int64_t>& counts,
                                           const char* what) {
  torch::Tensor piece = torch::empty({counts.at(static_cast<size_t>(rank()))}, values.options());
  reduce_scatter_start(values, counts, piece, what).wait();
  return piece;
}

torch::Tensor Communicator::all_to_all(const torch::Tensor& values, const std::vector<int64_t>& send,
                                       const std::vector<int64_t>& receive, const char* what) {
  MOGA_CHECK(values.dim() == 1 && values.is_contiguous() && values.numel() == total(send),
             "all-to-all of {}: {} values do not fit counts {}", what, values.numel(), fmt::join(send, ", "));
  if (size() == 1) {
    return values;
  }
  torch::Tensor output = torch::empty({total(receive)}, values.options());
  impl_->exchange(values, output, send, receive, what).wait();
  return output;
}

void Communicator::barrier(const char* what) {
  all_reduce(torch::ones({1}), what);
}

void Communicator::first_alone(const std::function<void()>& work, const char* what) {
  const std::string note = fmt::format("alone/{}", impl_->alone_count++);
  if (rank() == 0) {
    work();
  }
  if (size() == 1) {
    return;
  }
  try {
    if (rank() == 0) {
      impl_->store->set(note, store_value(what));
    }
    while (!impl_->store->check({note})) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  } catch (const std::exception& error) {
    impl_->fail_because(what, error);
  }
}

void Communicator::check_equal(const std::string& text, const char* what) {
  const std::string mine = digest(text);
  torch::Tensor bytes = torch::empty({1, static_cast<int64_t>(mine.size())}, torch::kByte);
  std::copy(mine.begin(), mine.end(), bytes.data_ptr<uint8_t>());
  const torch::Tensor all =
      all_gather(bytes, std::vector<int64_t>(static_cast<size_t>(size()), 1), what);  // [P, digits]
  std::vector<int64_t> different;
  for (int64_t r = 1; r < size(); ++r) {
    if (!torch::equal(all[r], all[0])) {
      different.push_back(r);
    }
  }
  MOGA_CHECK(different.empty(), "all ranks must have the same {}: {} differ{} from rank 0", what,
             rank_list(different), different.size() == 1 ? "s" : "");
}

std::vector<int64_t> even_counts(int64_t count, int64_t parts) {
  MOGA_CHECK(count >= 0 && parts > 0, "cannot share {} out over {}", count, parts);
  std::vector<int64_t> counts(static_cast<size_t>(parts), count / parts);
  for (int64_t i = 0; i < count % parts; ++i) {
    ++counts[static_cast<size_t>(i)];
  }
  return counts;
}

}  // namespace moga
