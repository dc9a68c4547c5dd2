#include "base/log.h"

#include <spdlog/sinks/stdout_sinks.h>

#include <cstdlib>

namespace moga {

void init_logging() {
  auto logger = spdlog::stderr_logger_mt("moga");
  logger->set_pattern("moga: %v");
  spdlog::set_default_logger(logger);
  if (const char* level = std::getenv("MOGA_LOG")) {
    spdlog::set_level(spdlog::level::from_str(level));
  }
}

}  // namespace moga
