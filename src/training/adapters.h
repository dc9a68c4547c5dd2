// Which weights of a transformer are trained: all, the routers, or low-rank adapters beside frozen weights
// (Hu et al. 2021, arXiv 2106.09685), which are saved in the style of keys that most programs read.
#pragma once

#include <torch/torch.h>

#include <filesystem>
#include <map>
#include <string>

#include "model/wan_dit.h"
#include "training/train_config.h"

namespace moga {

class TrainedWeights {
 public:
  // Adds adapters if that is what is trained and freezes the rest; trained weights become float32. Before the
  // parameters are made flat. Throws Error if a target names no linear layer (it lists those that there are),
  // or if routers are to be trained and there are none.
  TrainedWeights(WanDit dit, const TrainConfig& config);

  // lora only: "diffusion_model.MODULE.lora_A.weight", "...lora_B.weight", "...alpha" for every adapter, and
  // "...diff", "...diff_b" for the routers; float32. model/lora.h reads them.
  void save_adapter(const std::filesystem::path& file) const;

  // Trained weights a whole transformer has, adapters apart.
  bool whole() const { return config_.trained != TrainedPart::kLora; }

 private:
  WanDit dit_;
  const TrainConfig& config_;
  std::map<std::string, torch::Tensor> routers_;  // as they were, on the CPU
};

}  // namespace moga
