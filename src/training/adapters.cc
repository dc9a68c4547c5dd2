#include "training/adapters.h"

#include <set>

#include "base/error.h"
#include "io/safetensors.h"

namespace moga {

namespace {

constexpr const char* kKeyPrefix = "diffusion_model.";

bool is_router(const std::string& parameter) {
  return parameter.find(".router.") != std::string::npos;
}

bool is_adapter(const std::string& parameter) {
  return parameter.ends_with(".lora_A") || parameter.ends_with(".lora_B");
}

bool ends_with_name(const std::string& module, const std::string& target) {
  return module == target || module.ends_with("." + target);
}

// "blocks.3.self_attn.q" -> "self_attn.q": what a target may be.
std::string within_block(const std::string& module) {
  if (!module.starts_with("blocks.")) {
    return module;
  }
  return module.substr(module.find('.', sizeof("blocks.") - 1) + 1);
}

void add_adapters(WanDit& dit, const LoraConfig& config) {
  std::set<std::string> unused(config.targets.begin(), config.targets.end());
  std::set<std::string> known;
  for (const auto& item : dit->named_modules()) {
    auto* linear = item.value()->as<LinearImpl>();
    if (linear == nullptr) {
      continue;
    }
    known.insert(within_block(item.key()));
    bool chosen = false;
    for (const std::string& target : config.targets) {
      if (ends_with_name(item.key(), target)) {
        unused.erase(target);
        chosen = true;
      }
    }
    if (chosen) {
      linear->add_adapter(config.rank, config.alpha);
    }
  }
  MOGA_CHECK(unused.empty(), "lora.targets: no linear layer is called '{}'; there are {}", *unused.begin(),
             fmt::join(known, ", "));
}

}  // namespace

TrainedWeights::TrainedWeights(WanDit dit, const TrainConfig& config)
    : dit_(std::move(dit)), config_(config) {
  const TrainedPart part = config.trained;
  const bool routers = part == TrainedPart::kRouter || (part == TrainedPart::kLora && config.lora.routers);
  if (part == TrainedPart::kLora) {
    add_adapters(dit_, config.lora);
  }
  bool any_router = false;
  for (auto& item : dit_->named_parameters()) {
    torch::Tensor& parameter = item.value();
    any_router = any_router || is_router(item.key());
    const bool trained =
        part == TrainedPart::kFull || is_adapter(item.key()) || (routers && is_router(item.key()));
    parameter.set_requires_grad(trained);
    if (trained) {
      parameter.set_data(parameter.detach().to(torch::kFloat32));
    }
    if (part == TrainedPart::kLora && routers && is_router(item.key())) {
      routers_[item.key()] = parameter.detach().to(torch::kCPU, torch::kFloat32, false, /*copy=*/true);
    }
  }
  MOGA_CHECK(part != TrainedPart::kRouter || any_router,
             "trained: router, but the model has none; `moga convert` adds them");
}

void TrainedWeights::save_adapter(const std::filesystem::path& file) const {
  std::map<std::string, torch::Tensor> tensors;
  for (const auto& item : dit_->named_parameters()) {
    const std::string& name = item.key();
    const std::string module = kKeyPrefix + name.substr(0, name.rfind('.'));
    const torch::Tensor value = item.value().detach().to(torch::kCPU, torch::kFloat32);
    if (is_adapter(name)) {
      tensors[kKeyPrefix + name + ".weight"] = value;
      tensors[module + ".alpha"] = torch::full({}, config_.lora.alpha);
    } else if (const auto before = routers_.find(name); before != routers_.end()) {
      tensors[module + (name.ends_with(".bias") ? ".diff_b" : ".diff")] = value - before->second;
    }
  }
  write_safetensors(file, tensors, {{"format", "moga lora 1"}});
}

}  // namespace moga
