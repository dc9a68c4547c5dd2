#include "model/lora.h"

#include <algorithm>
#include <optional>
#include <set>

#include "base/error.h"

namespace moga {

namespace {

enum class Role { kDown, kUp, kAlpha, kDiff, kBiasDiff };

struct Key {
  std::string module;
  Role role = Role::kDown;
};

// "MODULE.lora_A[.ADAPTER].weight" and its relatives.
std::optional<Key> parse_key(const std::string& name) {
  struct Infix {
    const char* text;
    Role role;
  };
  constexpr Infix kInfixes[] = {{".lora_A.", Role::kDown},    {".lora_B.", Role::kUp},
                                {".lora_down.", Role::kDown}, {".lora_up.", Role::kUp},
                                {".lora.down.", Role::kDown}, {".lora.up.", Role::kUp}};
  for (const Infix& infix : kInfixes) {
    if (const size_t place = name.find(infix.text); place != std::string::npos && name.ends_with(".weight")) {
      return Key{name.substr(0, place), infix.role};
    }
  }
  constexpr Infix kEndings[] = {
      {".alpha", Role::kAlpha}, {".diff", Role::kDiff}, {".diff_b", Role::kBiasDiff}};
  for (const Infix& ending : kEndings) {
    if (name.ends_with(ending.text)) {
      return Key{name.substr(0, name.size() - std::string_view(ending.text).size()), ending.role};
    }
  }
  return std::nullopt;
}

std::string underscored(std::string name) {
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
}

// Every spelling of a module -> its official name.
std::map<std::string, std::string> spellings(const ShapeMap& dit) {
  std::map<std::string, std::string> modules;
  for (const auto& entry : dit) {
    if (!entry.first.ends_with(".weight")) {
      continue;
    }
    const std::string official = entry.first.substr(0, entry.first.size() - 7);
    std::string other = name_in(Naming::kDiffusers, PartKind::kDit, official + ".");
    other.pop_back();
    for (const std::string& name : {official, other}) {
      modules.emplace(name, official);
      modules.emplace(underscored(name), official);
    }
  }
  return modules;
}

std::optional<std::string> find_module(const std::map<std::string, std::string>& modules,
                                       const std::string& name) {
  for (const std::string_view prefix : {"", "diffusion_model.", "transformer.", "model.diffusion_model.",
                                        "base_model.model.", "model.", "lora_unet_", "lora_transformer_"}) {
    if (name.starts_with(prefix)) {
      if (const auto found = modules.find(name.substr(prefix.size())); found != modules.end()) {
        return found->second;
      }
    }
  }
  return std::nullopt;
}

int64_t rest_of(const std::vector<int64_t>& shape) {  // product of all dimensions but the first
  int64_t product = 1;
  for (size_t i = 1; i < shape.size(); ++i) {
    product *= shape[i];
  }
  return product;
}

}  // namespace

bool is_lora(const std::vector<std::string>& names) {
  return std::any_of(names.begin(), names.end(), [](const std::string& name) {
    const auto key = parse_key(name);
    return key && (key->role == Role::kDown || key->role == Role::kDiff);
  });
}

LoraFile::LoraFile(const LoraChoice& choice, const ShapeMap& dit)
    : checkpoint(std::make_shared<Checkpoint>(choice.file)), strength(choice.strength) {
  const std::string file = choice.file.string();
  const auto modules = spellings(dit);
  for (const auto& [name, info] : checkpoint->tensors()) {
    const auto key = parse_key(name);
    const auto module = key ? find_module(modules, key->module) : std::nullopt;
    const std::string parameter =
        module ? *module + (key->role == Role::kBiasDiff ? ".bias" : ".weight") : "";
    if (dit.count(parameter) == 0) {
      unmatched.push_back(name);
      continue;
    }
    Change& change = changes[parameter];
    (key->role == Role::kDown    ? change.down
     : key->role == Role::kUp    ? change.up
     : key->role == Role::kAlpha ? change.alpha
                                 : change.diff) = name;
  }
  for (auto it = changes.begin(); it != changes.end();) {
    const Change& change = it->second;
    const std::vector<int64_t>& shape = dit.at(it->first);
    const auto shape_of = [&](const std::string& name) { return checkpoint->tensors().at(name).shape; };
    if (!change.diff.empty()) {
      MOGA_CHECK(shape_of(change.diff) == shape, "{}: {} is [{}], its weight is [{}]", file, change.diff,
                 fmt::join(shape_of(change.diff), ", "), fmt::join(shape, ", "));
    } else if (change.down.empty() || change.up.empty()) {
      for (const std::string& name : {change.down, change.up, change.alpha}) {
        if (!name.empty()) {
          unmatched.push_back(name);
        }
      }
      it = changes.erase(it);
      continue;
    } else {
      const std::vector<int64_t> down = shape_of(change.down);
      const std::vector<int64_t> up = shape_of(change.up);
      const bool fits = down.size() >= 2 && up.size() >= 2 && up[0] == shape[0] && rest_of(up) == down[0] &&
                        rest_of(down) == rest_of(shape);
      MOGA_CHECK(fits,
                 "{}: {} [{}] and {} [{}] do not fit the weight {} [{}]; is it for a model of another size?",
                 file, change.down, fmt::join(down, ", "), change.up, fmt::join(up, ", "), it->first,
                 fmt::join(shape, ", "));
    }
    ++it;
  }
  MOGA_CHECK(!changes.empty(), "{}: none of its {} tensors is an adapter of this transformer (first: {})",
             file, checkpoint->tensors().size(),
             checkpoint->tensors().empty() ? "none" : checkpoint->tensors().begin()->first);
}

int64_t LoraFile::rank() const {
  const Change& change = changes.begin()->second;
  return change.down.empty() ? 0 : checkpoint->tensors().at(change.down).shape[0];
}

LoraSet::LoraSet(const std::vector<LoraChoice>& choices, const ShapeMap& dit) {
  for (const LoraChoice& choice : choices) {
    files_.emplace_back(choice, dit);
  }
}

bool LoraSet::changes(const std::string& official) const {
  return std::any_of(files_.begin(), files_.end(),
                     [&](const LoraFile& file) { return file.changes.count(official) != 0; });
}

void LoraSet::add_to(const std::string& official, torch::Tensor& weight) const {
  for (const LoraFile& file : files_) {
    const auto found = file.changes.find(official);
    if (found == file.changes.end()) {
      continue;
    }
    const LoraFile::Change& change = found->second;
    const auto read = [&](const std::string& name) { return file.checkpoint->read(name, torch::kFloat32); };
    if (!change.diff.empty()) {
      weight.add_(read(change.diff), file.strength);
      continue;
    }
    const torch::Tensor down = read(change.down).flatten(1);  // [rank, in]
    const torch::Tensor up = read(change.up).flatten(1);      // [out, rank]
    const auto rank = static_cast<double>(down.size(0));
    const double alpha = change.alpha.empty() ? rank : read(change.alpha).flatten()[0].item<double>();
    weight.add_(torch::mm(up, down).view_as(weight), file.strength * alpha / rank);
  }
}

}  // namespace moga
