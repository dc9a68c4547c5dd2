// A run's curves as one picture, from its metrics.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace moga {

// SVG with the loss (and, where there are, flow, validation at each noise level, balance, sparsity, PSNR),
// the gradient's norm, the learning rate, throughput, and a chart a layer of how the tokens are shared out
// among groups. Throws Error if no line has a loss.
std::string plot_metrics(const std::vector<nlohmann::ordered_json>& lines, const std::string& heading);

// Reads WORK/metrics.jsonl, writes WORK/metrics.svg and returns its path.
std::filesystem::path plot_run(const std::filesystem::path& work);

}  // namespace moga
