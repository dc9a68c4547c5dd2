// What the same tensor is called in different checkpoints. The modules here carry the official names; every
// other naming is derived from those by rules, so that one direction is enough: reading looks the derived
// name up.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/config.h"

namespace moga {

enum class PartKind { kDit, kVae, kText };
template <>
struct EnumNames<PartKind> {
  static constexpr std::array<std::pair<PartKind, const char*>, 3> kNames = {
      {{PartKind::kDit, "transformer"}, {PartKind::kVae, "vae"}, {PartKind::kText, "text encoder"}}};
};

// kWan: the official code's, which ComfyUI's transformer and VAE files and ours share. kDiffusers: diffusers'
// and, for the text encoder, transformers'.
enum class Naming { kWan, kDiffusers };
template <>
struct EnumNames<Naming> {
  static constexpr std::array<std::pair<Naming, const char*>, 2> kNames = {
      {{Naming::kWan, "wan"}, {Naming::kDiffusers, "diffusers"}}};
};

// The name in another naming of the tensor (or module, with a final dot) that is officially called
// `official`. res_blocks: of the VAE, whose decoder diffusers numbers by level.
std::string name_in(Naming naming, PartKind part, const std::string& official, int64_t res_blocks = 2);

// Further names under which files hold the tensor (the text encoder's embedding).
std::vector<std::string> name_aliases(Naming naming, PartKind part, const std::string& official);

struct RecognisedPart {
  PartKind part = PartKind::kDit;
  Naming naming = Naming::kWan;
  std::string prefix;  // before every name, such as "diffusion_model."
};
// What a file is, from its names alone; nothing if it is none of the three.
std::optional<RecognisedPart> recognise_part(const std::vector<std::string>& names);

}  // namespace moga
