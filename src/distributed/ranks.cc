#include "distributed/ranks.h"

#include <charconv>
#include <cstdlib>

#include "base/error.h"

namespace moga {

namespace {

constexpr int64_t kDefaultPort = 29500;

int64_t number(const char* name, const std::string& text, int64_t least, int64_t most) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  MOGA_CHECK(error == std::errc() && end == text.data() + text.size() && value >= least && value <= most,
             "{} must be a whole number from {} to {}, found '{}'", name, least, most, text);
  return value;
}

// The names under which a launcher tells a process its place.
struct Names {
  const char* launcher;
  const char* rank;
  const char* size;
  const char* local_rank;
  const char* local_size;  // or nullptr
};

constexpr Names kTorchrun = {"torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"};
constexpr Names kOpenMpi = {"mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                            "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"};
// Not SLURM_NTASKS: that is set in a batch script too, which is one process and waits for nobody.
constexpr Names kSlurm = {"srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", nullptr};
constexpr Names kMpich = {"mpiexec", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"};

bool started_by(const Names& names, const Environment& environment) {
  const bool rank = environment(names.rank).has_value();
  const bool size = environment(names.size).has_value();
  if (&names == &kSlurm) {
    return rank && size;
  }
  MOGA_CHECK(rank == size,
             "{} is set and {} is not; {} sets both: start the processes with it, or unset them",
             rank ? names.rank : names.size, rank ? names.size : names.rank, names.launcher);
  return rank;
}

std::string find_address(const Names& names, const Environment& environment, int64_t size) {
  if (const auto address = environment("MASTER_ADDR")) {
    return *address;
  }
  if (const auto nodes = environment("SLURM_STEP_NODELIST")) {
    return first_of_nodelist(*nodes);
  }
  const auto local_size = names.local_size == nullptr ? std::nullopt : environment(names.local_size);
  MOGA_CHECK(size == 1 || (local_size && number(names.local_size, *local_size, 1, 1 << 20) == size),
             "MASTER_ADDR is not set: set it to the name of the machine of rank 0, as seen from the others");
  return "127.0.0.1";
}

int64_t find_port(const Environment& environment) {
  if (const auto port = environment("MASTER_PORT")) {
    return number("MASTER_PORT", *port, 1, 65535);
  }
  if (const auto job = environment("SLURM_JOB_ID")) {  // jobs that share a machine want different ports
    return 20000 + number("SLURM_JOB_ID", *job, 0, int64_t{1} << 40) % 10000;
  }
  return kDefaultPort;
}

}  // namespace

std::optional<std::string> process_environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr || *value == '\0' ? std::nullopt : std::optional<std::string>(value);
}

std::string first_of_nodelist(const std::string& list) {
  const size_t open = list.find('[');
  const size_t comma = list.find(',');
  if (open == std::string::npos || comma < open) {
    return list.substr(0, comma);
  }
  const size_t end = list.find_first_of("-,]", open);
  MOGA_CHECK(end != std::string::npos, "SLURM_STEP_NODELIST: cannot read '{}'; set MASTER_ADDR", list);
  return list.substr(0, open) + list.substr(open + 1, end - open - 1);
}

std::optional<Ranks> find_ranks(const Environment& environment) {
  for (const Names* names : {&kTorchrun, &kOpenMpi, &kSlurm, &kMpich}) {
    if (!started_by(*names, environment)) {
      continue;
    }
    Ranks ranks;
    ranks.launcher = names->launcher;
    ranks.size = number(names->size, *environment(names->size), 1, 1 << 20);
    ranks.rank = number(names->rank, *environment(names->rank), 0, ranks.size - 1);
    const auto local = environment(names->local_rank);
    ranks.local_rank = local ? number(names->local_rank, *local, 0, ranks.size - 1) : ranks.rank;
    ranks.address = find_address(*names, environment, ranks.size);
    ranks.port = find_port(environment);
    if (names == &kTorchrun) {
      ranks.launcher_listens = environment("TORCHELASTIC_USE_AGENT_STORE") == "True";
      if (const auto attempt = environment("TORCHELASTIC_RESTART_COUNT")) {
        ranks.attempt = number("TORCHELASTIC_RESTART_COUNT", *attempt, 0, 1 << 20);
      }
    }
    return ranks;
  }
  return std::nullopt;
}

}  // namespace moga
