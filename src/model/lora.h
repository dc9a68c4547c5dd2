// Low-rank adapters (Hu et al. 2021, arXiv 2106.09685): W + strength * alpha / rank * B A, merged when a
// transformer is loaded. Four styles of keys are in use for Wan, and any of them may name modules officially
// or as diffusers does:
//
//   diffusion_model.blocks.0.self_attn.q.lora_A.weight    lora_B (or lora_down, lora_up), alpha
//   lora_unet_blocks_0_self_attn_q.lora_down.weight       lora_up, alpha
//   transformer.blocks.0.attn1.to_q.lora_A.weight         lora_B
//   blocks.0.self_attn.q.lora_A.default.weight            lora_B
//
// Besides, whole differences: MODULE.diff (weight) and MODULE.diff_b (bias).
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "model/model_parts.h"
#include "model/weights.h"

namespace moga {

// What one file would change.
struct LoraFile {
  struct Change {
    std::string down, up, alpha;  // names in the file; alpha may be empty
    std::string diff;             // instead of down and up
  };
  std::shared_ptr<const Checkpoint> checkpoint;
  double strength = 1;
  std::map<std::string, Change> changes;  // official parameter name -> change
  std::vector<std::string> unmatched;     // names in the file that fit no module of the transformer

  // Opens `choice.file` for a transformer with these parameters. Throws Error if nothing in it fits, or if a
  // matrix does not fit its module.
  LoraFile(const LoraChoice& choice, const ShapeMap& dit);

  int64_t rank() const;  // of the first change; 0 if that is a whole difference
};

// True if a file's names look like an adapter's.
bool is_lora(const std::vector<std::string>& names);

class LoraSet {
 public:
  LoraSet() = default;
  LoraSet(const std::vector<LoraChoice>& choices, const ShapeMap& dit);

  bool changes(const std::string& official) const;
  // weight: float32, in place. The sum of all files is added before anything is rounded.
  void add_to(const std::string& official, torch::Tensor& weight) const;
  const std::vector<LoraFile>& files() const { return files_; }

 private:
  std::vector<LoraFile> files_;
};

}  // namespace moga
