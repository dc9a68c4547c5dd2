// Between modules and named tensors.
#pragma once

#include <torch/torch.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "model/linear.h"
#include "model/weight_names.h"

namespace moga {

using TensorMap = std::map<std::string, torch::Tensor>;
using ShapeMap = std::map<std::string, std::vector<int64_t>>;

// All parameters of a module by name, detached, on the CPU, converted to `dtype` (floating ones).
TensorMap module_weights(const torch::nn::Module& module, torch::ScalarType dtype = torch::kFloat32);

// Names (official) and shapes of a module's parameters.
ShapeMap module_shapes(const torch::nn::Module& module);

// The same of the network M of these sizes, which is never in memory.
template <typename M, typename C>
ShapeMap network_shapes(const C& config) {
  const BareWeights bare;
  return module_shapes(*M(config));
}

// Copies `weights` into the module's parameters (converted to their dtype and device). Throws Error that
// lists what is missing, unexpected or of another shape; then nothing was changed. `source` names the file.
void load_weights(torch::nn::Module& module, const TensorMap& weights, const std::string& source);

int64_t parameter_count(const torch::nn::Module& module);

// How a file's tensors and a network's parameters fit together.
struct NameMatch {
  struct Reshaped {
    std::string name;  // official
    std::vector<int64_t> found;
    std::vector<int64_t> expected;
  };
  std::map<std::string, std::string> stored;  // official name -> name in the file
  std::vector<std::string> missing;           // official names
  std::vector<std::string> unexpected;        // names in the file
  std::vector<Reshaped> reshaped;

  bool fits() const { return missing.empty() && unexpected.empty() && reshaped.empty(); }
  // "missing a; unexpected b; c is [2], expected [3]; and 4 more".
  std::string problems() const;
};
// `found`: names and shapes of the file. Names without the part's prefix belong to other parts of a file and
// are left alone, as is what some text encoders carry besides weights (their tokenizer).
NameMatch match_names(const ShapeMap& expected, const ShapeMap& found, const RecognisedPart& part,
                      int64_t res_blocks = 2);

ShapeMap checkpoint_shapes(const Checkpoint& checkpoint);

struct WeightLoad {
  RecognisedPart part;
  int64_t res_blocks = 2;
  // The dtype that the parameter with this official name gets. Default: the one it has.
  std::function<torch::ScalarType(const std::string& official)> dtype;
  // Adds to a weight before it is rounded to its dtype (LoRA); may be empty. Gets the official name, says
  // whether it wants that weight, and receives it in float32.
  std::function<bool(const std::string& official)> adjusts;
  std::function<void(const std::string& official, torch::Tensor& weight)> adjust;
  std::function<bool(const std::string& official)>
      skip;  // stored tensors to leave out (routers of another kind)
};
// Fills a module, born bare or not, a tensor at a time: memory peaks at the module's size and one tensor.
// Throws Error as load_weights.
void load_checkpoint(torch::nn::Module& module, const Checkpoint& checkpoint, const WeightLoad& how);

// Where the reference keeps float32 whatever it was given: time embedding, modulation, norms, head; besides,
// the routers and the patch embedding, which are small. Everything else of the transformer may be bfloat16.
bool stays_float32(const std::string& official_dit_name);

}  // namespace moga
