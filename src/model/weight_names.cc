#include "model/weight_names.h"

#include <algorithm>
#include <charconv>
#include <set>

namespace moga {

namespace {

struct Rule {
  const char* official;
  const char* other;
};

// Applied in this order, each to its first place in the name; a rule that begins with '^' stands at the
// start. Sources: the rename table of diffusers' Wan conversion script, and the names of transformers' umT5
// classes.
constexpr Rule kDitRules[] = {
    {"^time_embedding.0.", "condition_embedder.time_embedder.linear_1."},
    {"^time_embedding.2.", "condition_embedder.time_embedder.linear_2."},
    {"^text_embedding.0.", "condition_embedder.text_embedder.linear_1."},
    {"^text_embedding.2.", "condition_embedder.text_embedder.linear_2."},
    {"^time_projection.1.", "condition_embedder.time_proj."},
    {"^head.modulation", "scale_shift_table"},
    {"^head.head.", "proj_out."},
    {".modulation", ".scale_shift_table"},
    {".norm3.", ".norm2."},  // the affine norm of cross-attention; diffusers counts in another order
    {".self_attn.", ".attn1."},
    {".cross_attn.", ".attn2."},
    {".q.", ".to_q."},
    {".k.", ".to_k."},
    {".v.", ".to_v."},
    {".o.", ".to_out.0."},
    {".ffn.0.", ".ffn.net.0.proj."},
    {".ffn.2.", ".ffn.net.2."},
};

constexpr Rule kVaeRules[] = {
    {"^conv1.", "quant_conv."},
    {"^conv2.", "post_quant_conv."},
    {"coder.conv1.", "coder.conv_in."},
    {".head.0.", ".norm_out."},
    {".head.2.", ".conv_out."},
    {".middle.0.", ".mid_block.resnets.0."},
    {".middle.1.", ".mid_block.attentions.0."},
    {".middle.2.", ".mid_block.resnets.1."},
    {".downsamples.", ".down_blocks."},
    {".residual.0.", ".norm1."},
    {".residual.2.", ".conv1."},
    {".residual.3.", ".norm2."},
    {".residual.6.", ".conv2."},
    {".shortcut.", ".conv_shortcut."},
};

constexpr Rule kTextRules[] = {
    {"^token_embedding.", "shared."},
    {"^norm.", "encoder.final_layer_norm."},
    {"^blocks.", "encoder.block."},
    {".norm1.", ".layer.0.layer_norm."},
    {".norm2.", ".layer.1.layer_norm."},
    {".attn.", ".layer.0.SelfAttention."},
    {".pos_embedding.embedding.", ".layer.0.SelfAttention.relative_attention_bias."},
    {".ffn.gate.0.", ".layer.1.DenseReluDense.wi_0."},
    {".ffn.fc1.", ".layer.1.DenseReluDense.wi_1."},
    {".ffn.fc2.", ".layer.1.DenseReluDense.wo."},
};

template <size_t N>
std::string apply(const Rule (&rules)[N], std::string name) {
  for (const Rule& rule : rules) {
    const bool at_start = rule.official[0] == '^';
    const std::string_view pattern = rule.official + (at_start ? 1 : 0);
    const size_t place = at_start ? (name.starts_with(pattern) ? 0 : std::string::npos) : name.find(pattern);
    if (place != std::string::npos) {
      name.replace(place, pattern.size(), rule.other);
    }
  }
  return name;
}

// "decoder.upsamples.5.rest" -> "decoder.up_blocks.1.resnets.1.rest": the official decoder numbers all blocks
// in one row, each level being res_blocks + 1 residual blocks and an up-sampler.
std::string by_level(const std::string& name, int64_t res_blocks) {
  constexpr std::string_view kRow = "decoder.upsamples.";
  if (!name.starts_with(kRow)) {
    return name;
  }
  int64_t index = 0;
  const char* end = name.data() + name.size();
  const auto [rest, error] = std::from_chars(name.data() + kRow.size(), end, index);
  if (error != std::errc() || index < 0) {
    return name;
  }
  const int64_t level = index / (res_blocks + 2);
  const int64_t place = index % (res_blocks + 2);
  return fmt::format("decoder.up_blocks.{}.{}{}", level,
                     place <= res_blocks ? fmt::format("resnets.{}", place) : "upsamplers.0",
                     std::string_view(rest, static_cast<size_t>(end - rest)));
}

struct Mark {
  PartKind part;
  Naming naming;
  const char* name;  // a tensor that only this part in this naming has
};
constexpr Mark kMarks[] = {
    {PartKind::kDit, Naming::kWan, "blocks.0.self_attn.q.weight"},
    {PartKind::kDit, Naming::kDiffusers, "blocks.0.attn1.to_q.weight"},
    {PartKind::kVae, Naming::kWan, "decoder.middle.0.residual.2.weight"},
    {PartKind::kVae, Naming::kDiffusers, "decoder.mid_block.resnets.0.conv1.weight"},
    {PartKind::kText, Naming::kWan, "blocks.0.attn.q.weight"},
    {PartKind::kText, Naming::kDiffusers, "encoder.block.0.layer.0.SelfAttention.q.weight"},
};

}  // namespace

std::string name_in(Naming naming, PartKind part, const std::string& official, int64_t res_blocks) {
  if (naming == Naming::kWan) {
    return official;
  }
  switch (part) {
    case PartKind::kDit:
      return apply(kDitRules, official);
    case PartKind::kVae:
      return apply(kVaeRules, by_level(official, res_blocks));
    case PartKind::kText:
      return apply(kTextRules, official);
  }
  return official;
}

std::vector<std::string> name_aliases(Naming naming, PartKind part, const std::string& official) {
  if (part == PartKind::kText && naming == Naming::kDiffusers && official == "token_embedding.weight") {
    return {"encoder.embed_tokens.weight"};
  }
  return {};
}

std::optional<RecognisedPart> recognise_part(const std::vector<std::string>& names) {
  for (const Mark& mark : kMarks) {
    for (const std::string& name : names) {
      if (!name.ends_with(mark.name)) {
        continue;
      }
      // What is in front of the mark must be in front of everything that belongs to the part.
      const std::string prefix = name.substr(0, name.size() - std::string_view(mark.name).size());
      if (prefix.empty() || prefix.back() == '.') {
        return RecognisedPart{mark.part, mark.naming, prefix};
      }
    }
  }
  return std::nullopt;
}

}  // namespace moga
