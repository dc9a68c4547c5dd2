// libtorch's c10d behind one name for all its versions: a store where ranks meet, and a process group.
#pragma once

// The headers show nothing without these. Every libtorch for Linux has Gloo; some set the macros themselves.
#ifndef USE_C10D_GLOO
#define USE_C10D_GLOO
#endif
#if defined(MOGA_NCCL) && !defined(USE_C10D_NCCL)
#define USE_C10D_NCCL
#endif
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#ifdef MOGA_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif
#include <torch/version.h>

#include <chrono>
#include <string>

#include "distributed/ranks.h"

namespace moga {

#if TORCH_VERSION_MAJOR >= 2
using Engine = c10d::Backend;
#else
using Engine = c10d::ProcessGroup;
#endif
using EnginePtr = c10::intrusive_ptr<Engine>;
using StorePtr = c10::intrusive_ptr<c10d::Store>;

// Rank 0 listens, the others connect. Throws Error if the port is taken or rank 0 cannot be reached.
StorePtr open_store(const Ranks& ranks, std::chrono::milliseconds timeout);

// `local`: all ranks are on this machine.
EnginePtr make_gloo(const StorePtr& store, int64_t rank, int64_t size, std::chrono::milliseconds timeout,
                    bool local);

// Absent (nullptr) in builds without NCCL.
EnginePtr make_nccl(const StorePtr& store, int64_t rank, int64_t size, std::chrono::milliseconds timeout);
// Ends it in good order, which NCCL misses otherwise. All ranks do so, after their last operation.
void close_nccl(Engine& nccl);

// The first line of what c10d says, without its stack.
std::string first_line(const std::exception& error);

}  // namespace moga
