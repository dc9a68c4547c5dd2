// The plan as JSON and as a table.
#include <fmt/format.h>

#include <array>
#include <string>

#include "base/text_util.h"
#include "pipeline/planner.h"

namespace moga {
namespace {

// 62400 -> "62,400".
std::string grouped(int64_t value) {
  const std::string digits = std::to_string(value);
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) {
      out += ',';
    }
    out += digits[i];
  }
  return out;
}

// Three significant digits: 6.945e15 -> "6.95 PFLOP".
std::string flops_text(double flops) {
  constexpr std::array<const char*, 7> kUnits = {"", "k", "M", "G", "T", "P", "E"};
  size_t unit = 0;
  while (flops >= 999.5 && unit + 1 < kUnits.size()) {
    flops /= 1000;
    ++unit;
  }
  const int decimals = flops >= 99.95 ? 0 : flops >= 9.995 ? 1 : 2;
  return fmt::format("{:.{}f} {}FLOP", flops, decimals, kUnits[unit]);
}

double length_seconds(const FilmPlan& plan) {
  return static_cast<double>(plan.request.frames) / plan.request.fps;
}

class Table {
 public:
  void heading(const std::string& text) { text_ += "\n" + text + "\n"; }
  void row(const std::string& name, const std::string& value, const std::string& note = "") {
    text_ += fmt::format("  {:<30} {:>14}{}{}\n", name, value, note.empty() ? "" : "  ", note);
  }
  std::string text_;
};

nlohmann::ordered_json flops_json(const FlopCounts& flops) {
  return {{"attention", flops.attention},
          {"router", flops.router},
          {"dense", flops.dense},
          {"total", flops.total()}};
}

nlohmann::ordered_json processes_json(const ProcessCosts& costs, std::optional<double> rate) {
  nlohmann::ordered_json json = {{"processes", costs.processes},
                                 {"sequence_parallel", costs.sequence},
                                 {"data_parallel", costs.processes / costs.sequence},
                                 {"balance", costs.balance},
                                 {"speedup", costs.speedup},
                                 {"weights_train", costs.weights_train},
                                 {"activations_train", costs.activations_train},
                                 {"activations_train_checkpointed", costs.activations_train_checkpointed},
                                 {"activations_generate", costs.activations_generate},
                                 {"generate", costs.generate},
                                 {"sent_gradients", costs.sent_gradients}};
  for (const RankCosts& rank : costs.ranks) {
    json["ranks"].push_back({{"tokens", rank.tokens},
                             {"heads", rank.heads},
                             {"flops", flops_json(rank.flops)},
                             {"sent_forward", rank.sent_forward},
                             {"sent_backward", rank.sent_backward},
                             {"sent_again", rank.sent_again},
                             {"forward_seconds", nullptr}});
    if (rate) {
      json["ranks"].back()["forward_seconds"] = rank.flops.total() / *rate;
    }
  }
  return json;
}

void add_processes(Table& table, const ProcessCosts& costs, std::optional<double> rate) {
  table.heading(fmt::format("{} processes: {} share a film, {} film{} at a time", costs.processes,
                            costs.sequence, costs.processes / costs.sequence,
                            costs.processes == costs.sequence ? "" : "s"));
  // Ranks with the same share in one line.
  for (size_t first = 0; first < costs.ranks.size();) {
    const RankCosts& rank = costs.ranks[first];
    size_t end = first + 1;
    while (end < costs.ranks.size() && costs.ranks[end].tokens == rank.tokens &&
           costs.ranks[end].heads == rank.heads) {
      ++end;
    }
    const std::string name =
        end == first + 1 ? fmt::format("rank {}", first) : fmt::format("ranks {} to {}", first, end - 1);
    table.row(name, grouped(rank.tokens) + " tokens",
              fmt::format("{} head{}, {} forward{}, sends {} forward and {} backward", rank.heads,
                          rank.heads == 1 ? "" : "s", flops_text(rank.flops.total()),
                          rate ? ", " + human_seconds(rank.flops.total() / *rate) : "",
                          human_bytes(rank.sent_forward), human_bytes(rank.sent_backward)));
    first = end;
  }
  table.row("balance", fmt::format("{:.0f} %", 100 * costs.balance),
            fmt::format("mean over most operations of a rank; {:.2f}x as fast as one process at best",
                        costs.speedup));
  table.row("training: weights and Adam", human_bytes(costs.weights_train),
            "a rank: values and gradients whole, the rest shared out");
  table.row("training: activations", human_bytes(costs.activations_train), "a rank, a film");
  table.row("  with checkpointing", human_bytes(costs.activations_train_checkpointed));
  table.row("training: gradients sent", human_bytes(costs.sent_gradients), "a rank, a step");
  table.row("generation: at once", human_bytes(costs.generate), "a rank, while denoising");
}

}  // namespace

nlohmann::ordered_json plan_to_json(const FilmPlan& plan, std::optional<double> flops_per_second) {
  const PlanRequest& request = plan.request;
  const FilmLayout& layout = plan.layout;
  nlohmann::ordered_json json;
  json["model"] = request.model.name;
  json["width"] = request.width;
  json["height"] = request.height;
  json["fps"] = request.fps;
  json["frames"] = request.frames;
  json["seconds"] = length_seconds(plan);
  json["latent_frames"] = layout.frames;
  json["tokens_per_frame"] = layout.frame_tokens();
  json["token_grid"] = {layout.rows, layout.cols};
  json["tokens"] = layout.tokens();
  json["shots"] = layout.shots();
  json["shot_starts"] = layout.shot_starts;
  json["attention"] = config_to_json(request.model.dit.attention);
  json["segments"] = {{"dynamic", plan.segments_dynamic},
                      {"windows", plan.segments_windows},
                      {"frames", plan.segments_frames},
                      {"total", plan.segments_dynamic + plan.segments_windows + plan.segments_frames}};
  json["temporal_groups"] = plan.temporal_groups;
  json["sparsity"] = plan.sparsity;
  json["sparsity_exact"] = plan.sparsity_exact;
  json["flops_full"] = plan.full.total();
  json["flops_moga"] = plan.moga.total();
  json["flops"] = {{"full", flops_json(plan.full)}, {"moga", flops_json(plan.moga)}};
  json["flops_vae_decode"] = plan.vae_decode_flops;
  json["break_even_tokens"] = nullptr;
  json["break_even_latent_frames"] = nullptr;
  json["break_even_frames"] = nullptr;
  if (plan.break_even_latent_frames) {
    json["break_even_tokens"] = *plan.break_even_latent_frames * layout.frame_tokens();
    json["break_even_latent_frames"] = *plan.break_even_latent_frames;
    json["break_even_frames"] = 4 * (*plan.break_even_latent_frames - 1) + 1;
  }
  json["parameters"] = {
      {"dit", plan.parameters_dit}, {"text", plan.parameters_text}, {"vae", plan.parameters_vae}};
  json["memory"] = {{"precision", enum_name(request.precision)},
                    {"weights", plan.memory.weights},
                    {"weights_dit", plan.memory.weights_dit},
                    {"weights_text", plan.memory.weights_text},
                    {"weights_vae", plan.memory.weights_vae},
                    {"generate", plan.memory.generate},
                    {"weights_train", plan.memory.weights_train},
                    {"activations_train", plan.memory.activations_train},
                    {"activations_train_checkpointed", plan.memory.activations_train_checkpointed},
                    {"activations_generate", plan.memory.activations_generate}};
  if (plan.processes) {
    json["processes"] = processes_json(*plan.processes, flops_per_second);
  }
  json["time"] = nullptr;
  if (flops_per_second) {
    const TimeEstimate time = estimate_time(plan, *flops_per_second);
    json["time"] = {{"flops_per_second", *flops_per_second},
                    {"forward_full_seconds", time.forward_full},
                    {"forward_moga_seconds", time.forward_moga},
                    {"generate_seconds", time.generate},
                    {"train_step_seconds", time.train_step}};
  }
  return json;
}

std::string plan_to_table(const FilmPlan& plan, std::optional<double> flops_per_second) {
  const PlanRequest& request = plan.request;
  const ModelConfig& model = request.model;
  const MogaConfig& attention = model.dit.attention;
  const FilmLayout& layout = plan.layout;
  const auto percent = [](double share) { return fmt::format("{:.2f} %", 100 * share); };
  Table table;
  table.text_ = fmt::format("{}: {} frames of {}x{} at {} fps ({:.2f} s), {} shot{}\n", model.name,
                            request.frames, request.width, request.height, request.fps, length_seconds(plan),
                            layout.shots(), layout.shots() == 1 ? "" : "s");
  table.heading("Tokens");
  table.row("latent frames", grouped(layout.frames));
  table.row("tokens a latent frame", grouped(layout.frame_tokens()),
            fmt::format("{} rows x {} columns", layout.rows, layout.cols));
  table.row("tokens", grouped(layout.tokens()));

  table.heading(fmt::format("Visual attention ({}, one layer)", enum_name(attention.kind)));
  table.row(attention.kind == AttentionKind::kFull ? "full segments" : "routed groups",
            grouped(plan.segments_dynamic));
  table.row("window segments", grouped(plan.segments_windows),
            fmt::format("{}x{} windows, {} temporal groups of up to {} latent frames", attention.windows.rows,
                        attention.windows.cols, plan.temporal_groups, attention.windows.temporal_group));
  table.row("frame segments", grouped(plan.segments_frames));
  table.row("sparsity", percent(plan.sparsity), "pairs not attended, as the paper counts (no boundary keys)");
  table.row("sparsity, exact", percent(plan.sparsity_exact), "with the boundary keys: what is computed");

  table.heading("Operations of a forward pass (one sample)");
  table.row("full attention", flops_text(plan.full.total()),
            fmt::format("of it attention {}", flops_text(plan.full.attention)));
  table.row(enum_name(attention.kind), flops_text(plan.moga.total()),
            fmt::format("of it attention {}, router {}", flops_text(plan.moga.attention),
                        flops_text(plan.moga.router)));
  table.row("full / " + enum_name(attention.kind),
            fmt::format("{:.2f}x", plan.full.total() / plan.moga.total()));
  table.row("everything else, in both", flops_text(plan.full.dense));
  table.row("VAE decoding", flops_text(plan.vae_decode_flops));
  if (plan.break_even_latent_frames) {
    const int64_t latents = *plan.break_even_latent_frames;
    table.row("break-even", grouped(latents * layout.frame_tokens()) + " tokens",
              fmt::format("from {} latent frames ({} frames) on, fewer operations than full attention",
                          latents, 4 * (latents - 1) + 1));
  } else {
    table.row("break-even", "none", "never fewer operations than full attention with these groups");
  }

  table.heading(fmt::format("Memory ({}, one sample)", enum_name(request.precision)));
  const auto part = [&](const char* name, double bytes, int64_t parameters, const char* note) {
    table.row(name, human_bytes(bytes),
              fmt::format("{} parameters{}", human_count(static_cast<double>(parameters)), note));
  };
  part("transformer", plan.memory.weights_dit, plan.parameters_dit, "");
  part("text encoder", plan.memory.weights_text, plan.parameters_text, ", dropped when the prompts are read");
  part("VAE", plan.memory.weights_vae, plan.parameters_vae, ", float32");
  table.row("generation: at once", human_bytes(plan.memory.generate),
            "the largest of the three with what it computes");
  table.row("generation: activations", human_bytes(plan.memory.activations_generate));
  table.row("training: weights and Adam", human_bytes(plan.memory.weights_train),
            "transformer: values, gradients, moments, average");
  table.row("training: activations", human_bytes(plan.memory.activations_train), "the most at once");
  table.row("  with checkpointing", human_bytes(plan.memory.activations_train_checkpointed),
            "each block is computed again in the backward pass");

  if (plan.processes) {
    add_processes(table, *plan.processes, flops_per_second);
  }
  if (flops_per_second) {
    const TimeEstimate time = estimate_time(plan, *flops_per_second);
    table.heading(fmt::format("Time at least, at this machine's {:.1f} GFLOP/s of float32 matrix products",
                              *flops_per_second * 1e-9));
    table.row("forward pass, full", human_seconds(time.forward_full));
    table.row("forward pass, " + enum_name(attention.kind), human_seconds(time.forward_moga));
    table.row("generation", human_seconds(time.generate),
              fmt::format("{} steps{}, and decoding", model.sampling.steps,
                          model.sampling.guidance == 1 ? "" : ", two passes a step (guidance)"));
    table.row("training, a sample", human_seconds(time.train_step), "forward and backward");
  }
  return table.text_;
}

}  // namespace moga
