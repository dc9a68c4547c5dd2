// A run's checkpoints: folders WORK/checkpoint-STEP of named tensors and a state, each whole or not there.
//
//   checkpoint-00001500/
//     state.json             step, whatever the run wants back, and a fingerprint of every other file
//     weights.safetensors    one file a set of tensors
//     ...
//
// The newest is found by listing; there is nothing that points to it and could be stale.
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace moga {

struct RunCheckpoint {
  int64_t step = 0;
  nlohmann::ordered_json state;
  std::map<std::string, std::map<std::string, torch::Tensor>> sets;  // file name without ending -> tensors
  std::filesystem::path folder;                                      // where it was read from
};

class Checkpoints {
 public:
  // Takes the folder for this process until it is destroyed; Error if another run has it. Removes what killed
  // runs left half written. The newest `keep` checkpoints are kept (at least one).
  Checkpoints(std::filesystem::path work, int64_t keep);
  ~Checkpoints();
  Checkpoints(const Checkpoints&) = delete;
  Checkpoints& operator=(const Checkpoints&) = delete;

  // Steps that have a checkpoint, rising.
  std::vector<int64_t> steps() const;
  std::filesystem::path folder(int64_t step) const;

  // Writes, syncs and renames; older ones are removed only after that. Throws Error if it cannot be written
  // (a full disk): then the ones before are untouched.
  void save(const RunCheckpoint& checkpoint);

  // The newest one that is whole, on the CPU. One that is damaged is passed over with a warning. None at all:
  // nothing. Throws Error if there are some and all are damaged.
  std::optional<RunCheckpoint> load_newest() const;

 private:
  std::filesystem::path work_;
  int64_t keep_;
  int lock_ = -1;
};

}  // namespace moga
