#include "distributed/engine.h"

#include "base/error.h"

namespace moga {
namespace {

// libtorch from 2.4 on asks for libuv unless it is told otherwise, whether it was built with it or not
// (Debian's is not).
template <class Options>
void use_plain_sockets(Options& options) {
  if constexpr (requires { options.useLibUV; }) {
    options.useLibUV = false;
  }
}

// Early releases of libtorch 2 have no such thing.
template <class Group>
void shut_down(Group& group) {
  if constexpr (requires { group.shutdown(); }) {
    group.shutdown();
  }
}

}  // namespace

std::string first_line(const std::exception& error) {
  const std::string text = error.what();
  return text.substr(0, text.find('\n'));
}

StorePtr open_store(const Ranks& ranks, std::chrono::milliseconds timeout) {
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(ranks.port);
  options.isServer = ranks.rank == 0 && !ranks.launcher_listens;
  options.numWorkers = static_cast<size_t>(ranks.size);
  options.waitWorkers = false;  // we wait ourselves, and say who is missing
  options.timeout = timeout;
  use_plain_sockets(options);
  try {
    const auto store = c10::make_intrusive<c10d::TCPStore>(ranks.address, options);
    if (!ranks.launcher_listens) {
      return store;
    }
    return c10::make_intrusive<c10d::PrefixStore>(fmt::format("attempt{}", ranks.attempt), store);
  } catch (const std::exception& error) {
    const std::string reason = first_line(error);
    MOGA_CHECK(!ranks.launcher_listens, "rank {} cannot reach {} at {}:{} ({})", ranks.rank, ranks.launcher,
               ranks.address, ranks.port, reason);
    MOGA_CHECK(ranks.rank != 0 || reason.find("in use") == std::string::npos,
               "port {} is in use on this machine: set MASTER_PORT to a free one", ranks.port);
    if (ranks.rank == 0) {
      fail("rank 0 cannot listen on port {}: {}", ranks.port, reason);
    }
    fail("rank {} cannot reach rank 0 at {}:{} ({}); check MASTER_ADDR and MASTER_PORT", ranks.rank,
         ranks.address, ranks.port, reason);
  }
}

EnginePtr make_gloo(const StorePtr& store, int64_t rank, int64_t size, std::chrono::milliseconds timeout,
                    bool local) {
  auto options = c10d::ProcessGroupGloo::Options::create(timeout);
  const auto interface = process_environment("GLOO_SOCKET_IFNAME");
  options->devices.push_back(local       ? c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1")
                             : interface ? c10d::ProcessGroupGloo::createDeviceForInterface(*interface)
                                         : c10d::ProcessGroupGloo::createDefaultDevice());
  return c10::make_intrusive<c10d::ProcessGroupGloo>(store, static_cast<int>(rank), static_cast<int>(size),
                                                     options);
}

#ifdef MOGA_NCCL
EnginePtr make_nccl(const StorePtr& store, int64_t rank, int64_t size, std::chrono::milliseconds timeout) {
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = timeout;
  return c10::make_intrusive<c10d::ProcessGroupNCCL>(store, static_cast<int>(rank), static_cast<int>(size),
                                                     options);
}

void close_nccl(Engine& nccl) {
  shut_down(static_cast<c10d::ProcessGroupNCCL&>(nccl));
}
#else
EnginePtr make_nccl(const StorePtr&, int64_t, int64_t, std::chrono::milliseconds) {
  return {};
}

void close_nccl(Engine&) {}
#endif

}  // namespace moga
