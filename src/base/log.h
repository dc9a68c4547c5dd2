// Logging goes to stderr, so that stdout carries only results (tables, JSON).
#pragma once

#include <spdlog/spdlog.h>

namespace moga {

// Messages on stderr as "moga: text"; MOGA_LOG=debug|info|warn|error sets the level (default info).
void init_logging();

using spdlog::debug;
using spdlog::info;
using spdlog::warn;

}  // namespace moga
