#include "model/inspect.h"

#include <algorithm>
#include <cctype>

#include "base/error.h"
#include "base/text_util.h"
#include "model/lora.h"
#include "model/model_folder.h"
#include "model/model_sizes.h"

namespace moga {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

namespace {

struct Sizes {
  ordered_json config;
  ShapeMap shapes;
  int64_t res_blocks = 2;
};

Sizes sizes_of(const FoundPart& part, const ShapeMap& found) {
  switch (part.what.part) {
    case PartKind::kDit: {
      const DitConfig config = infer_dit(found, part.what, part.file, part.config);
      return {config_to_json(config), network_shapes<WanDit>(config)};
    }
    case PartKind::kVae: {
      const VaeConfig config = infer_vae(found, part.what, part.file, part.config);
      return {config_to_json(config), network_shapes<WanVae>(config), config.res_blocks};
    }
    case PartKind::kText: {
      const TextEncoderConfig config = infer_text(found, part.what, part.file);
      return {config_to_json(config), network_shapes<UmT5>(config)};
    }
  }
  fail("unknown part");
}

void add_fit(ordered_json& facts, const NameMatch& match) {
  facts["fits"] = match.fits();
  facts["missing"] = match.missing;
  facts["unexpected"] = match.unexpected;
  facts["reshaped"] = ordered_json::array();
  for (const NameMatch::Reshaped& tensor : match.reshaped) {
    facts["reshaped"].push_back(
        {{"name", tensor.name}, {"found", tensor.found}, {"expected", tensor.expected}});
  }
}

ordered_json part_facts(const FoundPart& part, const Checkpoint& checkpoint, ordered_json facts) {
  const ShapeMap found = checkpoint_shapes(checkpoint);
  facts["what"] = fmt::format("weights of a Wan {}, {} names", enum_name(part.what.part),
                              part.what.naming == Naming::kDiffusers && part.what.part == PartKind::kText
                                  ? "transformers"
                                  : enum_name(part.what.naming));
  facts["part"] = enum_name(part.what.part);
  facts["naming"] = enum_name(part.what.naming);
  facts["prefix"] = part.what.prefix;
  const Sizes sizes = sizes_of(part, found);
  facts["config"] = sizes.config;
  const NameMatch match = match_names(sizes.shapes, found, part.what, sizes.res_blocks);
  add_fit(facts, match);
  std::map<std::string, std::string> official;
  for (const auto& [name, stored] : match.stored) {
    official.emplace(stored, name);
  }
  for (auto& tensor : facts["tensors"]) {
    if (const auto entry = official.find(tensor["name"].get<std::string>()); entry != official.end()) {
      tensor["official"] = entry->second;
    }
  }
  return facts;
}

// An adapter is held against the published models; the first one that it fits is what it is for.
void add_lora_facts(ordered_json& facts, const fs::path& file) {
  facts["what"] = "a LoRA adapter";
  std::string why;
  for (const char* name : {"wan-1.3b", "wan-14b"}) {
    DitConfig config = model_config(name).dit;
    config.attention.kind = AttentionKind::kFull;
    try {
      const LoraFile lora({file}, network_shapes<WanDit>(config));
      facts["what"] = fmt::format("a LoRA adapter for {}", name);
      facts["rank"] = lora.rank();
      facts["modules"] = lora.changes.size();
      facts["unmatched"] = lora.unmatched;
      for (const auto& [official, change] : lora.changes) {
        for (auto& tensor : facts["tensors"]) {
          const std::string stored = tensor["name"];
          if (stored == change.down || stored == change.up || stored == change.alpha ||
              stored == change.diff) {
            tensor["official"] = official;
          }
        }
      }
      return;
    } catch (const Error& error) {
      why = error.what();
    }
  }
  facts["what"] = "a LoRA adapter that fits no published Wan model";
  facts["problem"] = why;
}

ordered_json file_facts(const fs::path& file, const fs::path& config) {
  const Checkpoint checkpoint(file);
  ordered_json facts;
  facts["what"] = "tensors that are no part of a Wan model";
  facts["file"] = file.string();
  facts["format"] = checkpoint.format();
  int64_t parameters = 0;
  size_t bytes = 0;
  std::map<std::string, int64_t> dtypes;
  auto tensors = ordered_json::array();
  for (const auto& [name, info] : checkpoint.tensors()) {
    parameters += info.numel();
    bytes += info.bytes;
    ++dtypes[info.stored];
    tensors.push_back({{"name", name}, {"dtype", info.stored}, {"shape", info.shape}});
  }
  facts["count"] = tensors.size();
  facts["parameters"] = parameters;
  facts["bytes"] = bytes;
  facts["dtypes"] = dtypes;
  facts["metadata"] = checkpoint.metadata();
  facts["tensors"] = std::move(tensors);
  const std::vector<std::string> names = checkpoint.names();
  if (const auto what = recognise_part(names)) {
    return part_facts({*what, file, config}, checkpoint, std::move(facts));
  }
  if (is_lora(names)) {
    add_lora_facts(facts, file);
  }
  return facts;
}

ordered_json folder_facts(const ModelSource& source) {
  const ModelParts parts = find_model_parts(source);
  ordered_json facts;
  facts["what"] = fmt::format("a model: {}", enum_name(parts.layout));
  facts["folder"] = source.model.string();
  facts["layout"] = enum_name(parts.layout);
  facts["config"] = config_to_json(ModelFolder(source).config());
  facts["tokenizer"] =
      parts.tokenizer.empty() ? ordered_json(nullptr) : ordered_json(parts.tokenizer.string());
  facts["parts"] = ordered_json::array();
  for (const FoundPart& part : parts.found) {
    facts["parts"].push_back(file_facts(part.file, part.config));
  }
  return facts;
}

// "blocks.3.ffn.0.bias" -> "blocks.*.ffn.0.bias", and the same for "block." and "lora_unet_blocks_3_".
std::string pattern_of(const std::string& name) {
  for (const std::string_view row : {"blocks.", "block.", "blocks_"}) {
    const size_t place = name.find(row);
    if (place == std::string::npos) {
      continue;
    }
    const size_t begin = place + row.size();
    size_t end = begin;
    while (end < name.size() && std::isdigit(static_cast<unsigned char>(name[end])) != 0) {
      ++end;
    }
    if (end > begin) {
      return name.substr(0, begin) + "*" + name.substr(end);
    }
  }
  return name;
}

void describe_tensors(const ordered_json& facts, std::string& text) {
  struct Row {
    std::string pattern;
    std::string rest;
    int64_t count = 0;
  };
  std::vector<Row> rows;
  std::map<std::string, size_t> index;
  for (const auto& tensor : facts["tensors"]) {
    const auto name = tensor["name"].get<std::string>();
    const std::string official = tensor.value("official", "");
    const std::string pattern = pattern_of(name);
    const std::string rest =
        fmt::format("{:<8} [{}]{}", tensor["dtype"].get<std::string>(),
                    fmt::join(tensor["shape"].get<std::vector<int64_t>>(), ", "),
                    official.empty() || official == name ? "" : "  = " + pattern_of(official));
    const auto [entry, fresh] = index.emplace(pattern + rest, rows.size());
    if (fresh) {
      rows.push_back({pattern, rest});
    }
    ++rows[entry->second].count;
  }
  text += "  tensors (blocks that are alike are told once)\n";
  for (const Row& row : rows) {
    text += fmt::format("    {:>4} x {:<56} {}\n", row.count, row.pattern, row.rest);
  }
}

void describe_list(const ordered_json& facts, const char* key, std::string& text) {
  if (!facts.contains(key) || facts[key].empty()) {
    return;
  }
  text += fmt::format("  {}: {}\n", key, facts[key].size());
  for (const auto& item : facts[key]) {
    text += item.is_string() ? fmt::format("    {}\n", item.get<std::string>())
                             : fmt::format("    {} is {}, expected {}\n", item["name"].get<std::string>(),
                                           item["found"].dump(), item["expected"].dump());
  }
}

void describe_config(const ordered_json& config, const std::string& indent, std::string& text) {
  for (const auto& [key, value] : config.items()) {
    if (value.is_object()) {
      text += fmt::format("{}{}:\n", indent, key);
      describe_config(value, indent + "  ", text);
    } else {
      text +=
          fmt::format("{}{}: {}\n", indent, key, value.is_string() ? value.get<std::string>() : value.dump());
    }
  }
}

void describe_file(const ordered_json& facts, bool with_config, std::string& text) {
  text += fmt::format("{}: {}\n", facts["file"].get<std::string>(), facts["what"].get<std::string>());
  std::vector<std::string> dtypes;
  for (const auto& [dtype, count] : facts["dtypes"].items()) {
    dtypes.push_back(fmt::format("{} x {}", count.get<int64_t>(), dtype));
  }
  text += fmt::format("  {}: {} tensors, {} numbers, {} ({})\n", facts["format"].get<std::string>(),
                      facts["count"].get<int64_t>(), human_count(facts["parameters"].get<double>()),
                      human_bytes(facts["bytes"].get<double>()), fmt::join(dtypes, ", "));
  if (const std::string prefix = facts.value("prefix", ""); !prefix.empty()) {
    text += fmt::format("  every name begins with '{}'\n", prefix);
  }
  if (facts.contains("problem")) {
    text += fmt::format("  {}\n", facts["problem"].get<std::string>());
  }
  if (facts.contains("rank")) {
    text += fmt::format("  rank {}, {} weights changed\n", facts["rank"].get<int64_t>(),
                        facts["modules"].get<int64_t>());
  }
  if (with_config && facts.contains("config")) {
    text += "  sizes\n";
    describe_config(facts["config"], "    ", text);
  }
  if (facts.contains("fits") && facts["fits"].get<bool>()) {
    text += "  fits: every tensor of the network is there, in its shape, and nothing else\n";
  }
  for (const char* key : {"missing", "reshaped", "unexpected", "unmatched"}) {
    describe_list(facts, key, text);
  }
  describe_tensors(facts, text);
}

}  // namespace

ordered_json inspect_checkpoint(const ModelSource& source) {
  std::error_code ignored;
  if (fs::is_directory(source.model, ignored)) {
    return folder_facts(source);
  }
  const fs::path config = source.model.parent_path() / "config.json";
  return file_facts(source.model, fs::exists(config, ignored) ? config : fs::path());
}

std::string describe_checkpoint(const ordered_json& facts) {
  std::string text;
  if (!facts.contains("parts")) {
    describe_file(facts, true, text);
    return text;
  }
  text += fmt::format("{}: {}\n", facts["folder"].get<std::string>(), facts["what"].get<std::string>());
  text += fmt::format("tokenizer: {}\n",
                      facts["tokenizer"].is_null() ? "none found" : facts["tokenizer"].get<std::string>());
  text += "config\n";
  describe_config(facts["config"], "  ", text);
  for (const auto& part : facts["parts"]) {
    describe_file(part, false, text);
  }
  return text;
}

}  // namespace moga
