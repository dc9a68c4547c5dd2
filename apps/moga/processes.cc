#include "processes.h"

#ifdef MOGA_TORCH_CUDA
#include <c10/cuda/CUDAFunctions.h>
#endif

#include "base/log.h"
#include "base/progress.h"
#include "distributed/launcher.h"

namespace moga {

void ProcessOptions::add_to(CLI::App& command) {
  command
      .add_option(
          "--processes", processes_,
          "Work as so many processes on this machine (or start them with torchrun --no-python, mpirun or "
          "srun; docs/distributed.md)")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  command
      .add_option("--timeout", timeout_,
                  "Seconds that a process waits for the others before the job ends with an error")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
}

bool ProcessOptions::ran_elsewhere() const {
  if (processes_ == 1 || find_ranks()) {
    return false;
  }
  if (const int code = launch({.processes = processes_, .command = own_command()}); code != 0) {
    throw CLI::RuntimeError(code);
  }
  return true;
}

std::shared_ptr<Communicator> ProcessOptions::join(torch::Device& device) const {
  const auto ranks = find_ranks();
  if (!ranks || ranks->size == 1) {
    return nullptr;
  }
  MOGA_CHECK(processes_ == 1 || processes_ == ranks->size,
             "--processes {} contradicts {}, which started {}; leave it out", processes_, ranks->launcher,
             ranks->size);
  if (device.is_cuda()) {
    const auto gpus = static_cast<int64_t>(torch::cuda::device_count());
    MOGA_CHECK(ranks->local_rank < gpus, "rank {} is process {} of this machine, which has {} GPU{}",
               ranks->rank, ranks->local_rank, gpus, gpus == 1 ? "" : "s");
    device = torch::Device(torch::kCUDA, static_cast<c10::DeviceIndex>(ranks->local_rank));
#ifdef MOGA_TORCH_CUDA
    c10::cuda::set_device(device.index());
#endif
  }
  if (ranks->rank != 0) {
    spdlog::set_level(spdlog::level::err);
    Progress::silence();
  }
  auto world = Communicator::connect(*ranks, {.device = device, .timeout_seconds = timeout_});
  spdlog::info("{} processes", world->size());
  return world;
}

void report_waiting(const std::shared_ptr<Communicator>& ranks, double seconds) {
  if (ranks == nullptr) {
    return;
  }
  const torch::Tensor share = torch::full({1}, 100 * ranks->seconds_waited() / seconds, torch::kFloat64);
  const torch::Tensor all =
      ranks->all_gather(share, std::vector<int64_t>(static_cast<size_t>(ranks->size()), 1), "report");
  std::string text;
  for (int64_t rank = 0; rank < ranks->size(); ++rank) {
    text += fmt::format("{}{} {:.0f} %", rank == 0 ? "" : ", ", rank, all[rank].item<double>());
  }
  spdlog::info("time that each rank waited for others: {}", text);
}

}  // namespace moga
