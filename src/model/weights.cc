#include "model/weights.h"

#include <set>

#include "base/error.h"

namespace moga {

TensorMap module_weights(const torch::nn::Module& module, torch::ScalarType dtype) {
  TensorMap weights;
  for (const auto& item : module.named_parameters()) {
    // clone(): a caller that keeps the map must not see later training steps.
    weights[item.key()] = item.value().detach().to(torch::kCPU, dtype).clone();
  }
  return weights;
}

ShapeMap module_shapes(const torch::nn::Module& module) {
  ShapeMap shapes;
  for (const auto& item : module.named_parameters()) {
    shapes[item.key()] = item.value().sizes().vec();
  }
  return shapes;
}

ShapeMap checkpoint_shapes(const Checkpoint& checkpoint) {
  ShapeMap shapes;
  for (const auto& [name, info] : checkpoint.tensors()) {
    shapes[name] = info.shape;
  }
  return shapes;
}

std::string NameMatch::problems() const {
  constexpr size_t kShown = 8;
  std::vector<std::string> lines;
  for (const std::string& name : missing) {
    lines.push_back("missing " + name);
  }
  for (const Reshaped& tensor : reshaped) {
    lines.push_back(fmt::format("{} is [{}], expected [{}]", tensor.name, fmt::join(tensor.found, ", "),
                                fmt::join(tensor.expected, ", ")));
  }
  for (const std::string& name : unexpected) {
    lines.push_back("unexpected " + name);
  }
  const size_t count = lines.size();
  if (count > kShown) {
    lines.resize(kShown);
    lines.push_back(fmt::format("and {} more", count - kShown));
  }
  return fmt::format("{}", fmt::join(lines, "; "));
}

NameMatch match_names(const ShapeMap& expected, const ShapeMap& found, const RecognisedPart& part,
                      int64_t res_blocks) {
  NameMatch match;
  std::set<std::string> used;
  for (const auto& [official, shape] : expected) {
    std::vector<std::string> candidates = name_aliases(part.naming, part.part, official);
    candidates.insert(candidates.begin(), name_in(part.naming, part.part, official, res_blocks));
    bool matched = false;
    for (const std::string& candidate : candidates) {
      const std::string name = part.prefix + candidate;
      const auto entry = found.find(name);
      if (entry == found.end()) {
        continue;
      }
      used.insert(name);  // every alias: a file may store the tensor twice
      if (matched) {
        continue;
      }
      matched = true;
      if (entry->second == shape) {
        match.stored.emplace(official, name);
      } else {
        match.reshaped.push_back({official, entry->second, shape});
      }
    }
    if (!matched) {
      match.missing.push_back(official);
    }
  }
  for (const auto& [name, shape] : found) {
    const bool tokenizer = part.part == PartKind::kText && name == "spiece_model";
    if (name.starts_with(part.prefix) && !tokenizer && used.count(name) == 0) {
      match.unexpected.push_back(name);
    }
  }
  return match;
}

void load_weights(torch::nn::Module& module, const TensorMap& weights, const std::string& source) {
  ShapeMap found;
  for (const auto& [name, tensor] : weights) {
    found[name] = tensor.sizes().vec();
  }
  const NameMatch match = match_names(module_shapes(module), found, {});
  MOGA_CHECK(match.fits(), "{} does not fit the model: {}", source, match.problems());
  const torch::NoGradGuard guard;
  for (const auto& item : module.named_parameters()) {
    item.value().copy_(weights.at(item.key()));
  }
}

void load_checkpoint(torch::nn::Module& module, const Checkpoint& checkpoint, const WeightLoad& how) {
  ShapeMap found = checkpoint_shapes(checkpoint);
  for (auto it = found.begin(); it != found.end();) {
    it = how.skip && how.skip(it->first) ? found.erase(it) : std::next(it);
  }
  const NameMatch match = match_names(module_shapes(module), found, how.part, how.res_blocks);
  MOGA_CHECK(match.fits(), "{} does not fit the model: {}", checkpoint.path().string(), match.problems());
  const torch::NoGradGuard guard;
  for (auto& item : module.named_parameters()) {
    const std::string& official = item.key();
    const std::string& stored = match.stored.at(official);
    const torch::ScalarType dtype = how.dtype ? how.dtype(official) : item.value().scalar_type();
    torch::Tensor value;
    if (how.adjusts && how.adjusts(official)) {
      value = checkpoint.read(stored, torch::kFloat32);
      how.adjust(official, value);
      value = value.to(dtype);
    } else {
      value = checkpoint.read(stored, dtype);
    }
    item.value().set_data(value.to(item.value().device()));
  }
}

bool stays_float32(const std::string& name) {
  return name.starts_with("time_") || name.starts_with("head.") || name.starts_with("patch_embedding.") ||
         name.find("norm") != std::string::npos || name.find("modulation") != std::string::npos ||
         name.find(".router.") != std::string::npos;
}

int64_t parameter_count(const torch::nn::Module& module) {
  int64_t count = 0;
  for (const auto& parameter : module.parameters()) {
    count += parameter.numel();
  }
  return count;
}

}  // namespace moga
