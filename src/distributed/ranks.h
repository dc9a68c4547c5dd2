// Which of how many processes this one is, as launchers say it in the environment.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace moga {

struct Ranks {
  int64_t rank = 0;
  int64_t size = 1;
  int64_t local_rank = 0;  // on this machine: the GPU that it takes
  std::string address;     // where rank 0 listens
  int64_t port = 0;
  std::string launcher;  // "torchrun", "mpirun", "mpiexec" or "srun"
  // Not rank 0 but the launcher listens there, whose store outlives the processes: restarted ones are
  // another attempt.
  bool launcher_listens = false;
  int64_t attempt = 0;
};

// Value of a variable, absent if it is not set or empty.
using Environment = std::function<std::optional<std::string>(const char* name)>;
std::optional<std::string> process_environment(const char* name);

// Absent if no launcher started this process. torchrun: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR,
// MASTER_PORT, TORCHELASTIC_USE_AGENT_STORE, TORCHELASTIC_RESTART_COUNT; Open MPI: OMPI_COMM_WORLD_*; Slurm's
// srun: SLURM_PROCID, SLURM_STEP_NUM_TASKS, SLURM_LOCALID, SLURM_STEP_NODELIST; MPICH and Intel MPI:
// PMI_RANK, PMI_SIZE, MPI_LOCALRANKID. MASTER_ADDR and MASTER_PORT count with all of them. Throws Error on
// half an environment or one that contradicts itself.
std::optional<Ranks> find_ranks(const Environment& environment = process_environment);

// The first machine of a Slurm list: "node[07-09,12],other3" -> "node07".
std::string first_of_nodelist(const std::string& list);

}  // namespace moga
