// Against the golden data of the official Wan2.1 code with tiny random weights: tests/fixtures/wan/README.md.
// The environment variable MOGA_FIXTURES names another folder of the same form. Sizes come from its
// configs.json and cases from the names in its files; what a folder lacks is reported as skipped.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "base/atomic_file.h"
#include "base/error.h"
#include "diffusion/flow.h"
#include "diffusion/solver.h"
#include "distributed/device_test_util.h"
#include "io/safetensors.h"
#include "model/umt5.h"
#include "model/wan_dit.h"
#include "model/wan_vae.h"
#include "model/weights.h"

namespace moga {
namespace {

namespace fs = std::filesystem;
using torch::Tensor;

constexpr double kTolerance = 1e-4;       // absolute and relative, of one forward pass in float32
constexpr double kEndToEnd = 1e-3;        // the guided sampling amplifies rounding about tenfold
constexpr double kSolverRounding = 1e-5;  // elementwise arithmetic alone

void expect_close(const Tensor& actual, const Tensor& expected, const std::string& what,
                  double tolerance = kTolerance) {
  ASSERT_EQ(actual.sizes(), expected.sizes()) << what;
  const Tensor a = actual.to(torch::kCPU, torch::kFloat64);
  const Tensor e = expected.to(torch::kCPU, torch::kFloat64);
  EXPECT_TRUE(a.allclose(e, tolerance, tolerance))
      << what << ": largest difference " << (a - e).abs().max().item<double>();
}

// The names `NAME` for which `NAME` + ending is a tensor.
std::set<std::string> names_before(const TensorMap& tensors, const std::string& ending) {
  std::set<std::string> names;
  for (const auto& [key, tensor] : tensors) {
    if (key.size() > ending.size() && key.ends_with(ending)) {
      names.insert(key.substr(0, key.size() - ending.size()));
    }
  }
  return names;
}

// `key` cut after `prefix`, if it starts so.
std::optional<std::string> after(const std::string& key, const std::string& prefix) {
  return key.starts_with(prefix) ? std::optional(key.substr(prefix.size())) : std::nullopt;
}

// Lower case, so that all ctest names of this program start with "golden".
class golden : public testing::Test {  // NOLINT(readability-identifier-naming)
 protected:
  golden() {
    const char* given = std::getenv("MOGA_FIXTURES");
    folder_ = given != nullptr ? given : MOGA_SOURCE_DIR "/tests/fixtures/wan";
  }
  // What of `files` is not there, as the reason to skip; empty if all are.
  std::string lacks(std::vector<std::string> files) const {
    std::vector<std::string> missing;
    files.insert(files.begin(), "configs.json");
    for (const std::string& file : files) {
      if (!fs::exists(folder_ / file)) {
        missing.push_back(file);
      }
    }
    return missing.empty() ? "" : fmt::format("{} lacks {}", folder_.string(), fmt::join(missing, ", "));
  }
  TensorMap read(const std::string& file) const {
    TensorMap tensors = SafetensorsFile(folder_ / file).read_all();
    for (auto& [name, tensor] : tensors) {
      tensor = tensor.to(test_device());
    }
    return tensors;
  }
  nlohmann::json sizes(const std::string& part) const {
    return nlohmann::json::parse(read_file(folder_ / "configs.json")).at("tiny").at(part);
  }

  WanDit load_dit() const {
    const nlohmann::json json = sizes("dit");
    EXPECT_EQ(json.at("patch_size"), nlohmann::json({1, 2, 2}));
    EXPECT_TRUE(json.at("qk_norm").get<bool>() && json.at("cross_attn_norm").get<bool>());
    DitConfig config;
    config.in_channels = json.at("in_dim");
    config.out_channels = json.at("out_dim");
    config.dim = json.at("dim");
    config.ffn_dim = json.at("ffn_dim");
    config.freq_dim = json.at("freq_dim");
    config.text_dim = json.at("text_dim");
    config.text_len = json.at("text_len");
    config.heads = json.at("num_heads");
    config.layers = json.at("num_layers");
    config.eps = json.at("eps");
    config.attention.kind = AttentionKind::kFull;
    WanDit dit(config);
    dit->to(test_device());
    load_weights(*dit, read("dit_tiny.safetensors"), "dit_tiny.safetensors");
    return dit;
  }
  WanVae load_vae() const {
    const nlohmann::json json = sizes("vae");
    EXPECT_TRUE(json.at("attn_scales").empty());
    EXPECT_EQ(json.at("temporal_downsample"), nlohmann::json({false, true, true}));
    VaeConfig config;
    config.dim = json.at("dim");
    config.z_dim = json.at("z_dim");
    config.dim_mult = json.at("dim_mult").get<std::vector<int64_t>>();
    config.res_blocks = json.at("num_res_blocks");
    const TensorMap io = read("vae_tiny_io.safetensors");
    const auto values = [&](const std::string& name) {
      const Tensor wide = io.at(name).to(torch::kCPU, torch::kFloat64);
      return std::vector<double>(wide.data_ptr<double>(), wide.data_ptr<double>() + wide.numel());
    };
    config.latents_mean = values("latents_mean");
    config.latents_std = values("latents_std");
    WanVae vae(config);
    vae->to(test_device());
    load_weights(*vae, read("vae_tiny.safetensors"), "vae_tiny.safetensors");
    return vae;
  }
  TextEncoderConfig text_config() const {
    const nlohmann::json json = sizes("t5");
    EXPECT_FALSE(json.at("shared_pos").get<bool>());
    TextEncoderConfig config;
    config.vocab_size = json.at("vocab_size");
    config.dim = json.at("dim");
    config.dim_attn = json.at("dim_attn");
    config.dim_ffn = json.at("dim_ffn");
    config.heads = json.at("num_heads");
    config.layers = json.at("num_layers");
    config.buckets = json.at("num_buckets");
    config.max_distance = json.at("max_distance");
    config.eps = json.at("eps");
    return config;
  }

  const torch::NoGradGuard no_grad_;
  fs::path folder_;
};

#define GOLDEN_NEEDS(...) \
  if (const std::string reason = lacks({__VA_ARGS__}); !reason.empty()) GTEST_SKIP() << reason

// Texts of [rows, width] as the transformer takes them: [texts, 1, most rows, width], zeros below each.
Tensor stack_captions(const std::vector<Tensor>& texts) {
  int64_t rows = 0;
  for (const Tensor& text : texts) {
    rows = std::max(rows, text.size(0));
  }
  std::vector<Tensor> padded;
  for (const Tensor& text : texts) {
    padded.push_back(torch::constant_pad_nd(text, {0, 0, 0, rows - text.size(0)}, 0));
  }
  return torch::stack(padded).unsqueeze(1);
}

// Runs the samples `members` of a case, all of one size, as one batch and compares everything that the file
// has of them. Returns the number of tensors compared.
int check_dit_batch(WanDit& dit, const TensorMap& io, const std::string& name,
                    const std::vector<int64_t>& members) {
  std::vector<Tensor> latents;
  std::vector<Tensor> texts;
  for (const int64_t i : members) {
    latents.push_back(io.at(fmt::format("{}.x{}", name, i)));
    texts.push_back(io.at(fmt::format("{}.context{}", name, i)));
  }
  const Tensor x = torch::stack(latents);
  const FilmLayout layout{x.size(2), x.size(3) / 2, x.size(4) / 2};
  const auto B = static_cast<int64_t>(members.size());
  const Tensor index = torch::tensor(members).to(test_device());
  const DitPlan plan = plan_dit(std::vector<FilmLayout>(members.size(), layout), GlobalText::kNone,
                                dit->config(), test_device());
  int compared = 0;
  DitTrace trace;
  // Rows that stand for tokens; the file has padding behind them where its samples differ in size.
  const std::set<std::string> not_tokens = {"sinusoid",       "e",           "e0",
                                            "context_padded", "context_emb", "block0.cross_attn.k_norm"};
  trace.observe = [&](const std::string& what, const Tensor& value) {
    const auto found = io.find(name + "." + what);
    if (found == io.end()) {
      return;
    }
    Tensor expected = found->second.index_select(0, index);
    if (not_tokens.count(what) == 0) {
      expected = expected.slice(1, 0, layout.tokens());
    }
    ASSERT_EQ(value.numel(), expected.numel()) << name << " " << what;
    expect_close(value.reshape(expected.sizes()), expected, name + " " + what);
    ++compared;
  };
  const Tensor out =
      dit->forward(x, io.at(name + ".t").index_select(0, index), stack_captions(texts), plan, &trace);
  for (int64_t b = 0; b < B; ++b) {
    const int64_t i = members[static_cast<size_t>(b)];
    expect_close(out[b], io.at(fmt::format("{}.out{}", name, i)), fmt::format("{} out{}", name, i));
  }
  return compared;
}

TEST_F(golden, DitOutputsAndIntermediates) {
  GOLDEN_NEEDS("dit_tiny.safetensors", "dit_tiny_io.safetensors");
  WanDit dit = load_dit();
  const TensorMap io = read("dit_tiny_io.safetensors");
  const std::set<std::string> cases = names_before(io, ".x0");
  ASSERT_FALSE(cases.empty());
  for (const std::string& name : cases) {
    // A batch is of one size here, so a ragged case is a batch for each size.
    std::map<std::vector<int64_t>, std::vector<int64_t>> batches;
    for (int64_t i = 0; io.count(fmt::format("{}.x{}", name, i)) != 0; ++i) {
      batches[io.at(fmt::format("{}.x{}", name, i)).sizes().vec()].push_back(i);
    }
    int wanted = 0;
    for (const auto& [key, tensor] : io) {
      const auto what = after(key, name + ".");
      const bool input = !what || *what == "t" || *what == "seq_len" || what->starts_with("x") ||
                         (what->starts_with("context") && what->find('_') == std::string::npos);
      wanted += input || what->starts_with("out") ? 0 : 1;
    }
    for (const auto& [size, members] : batches) {
      EXPECT_EQ(check_dit_batch(dit, io, name, members), wanted) << name << ": not all tensors were seen";
    }
  }
}

TEST_F(golden, DitRopeAtRealSize) {
  GOLDEN_NEEDS("dit_tiny_io.safetensors");
  const TensorMap io = read("dit_tiny_io.safetensors");
  std::set<std::string> cases;
  for (const std::string& name : names_before(io, ".grid")) {
    if (name.starts_with("rope")) {
      cases.insert(name);
    }
  }
  if (cases.empty()) {
    GTEST_SKIP() << "dit_tiny_io.safetensors lacks rotary embeddings";
  }
  for (const std::string& name : cases) {
    const Tensor grid = io.at(name + ".grid")[0];
    const FilmLayout layout{grid[0].item<int64_t>(), grid[1].item<int64_t>(), grid[2].item<int64_t>()};
    const Tensor x = io.at(name + ".x").slice(1, 0, layout.tokens());
    const Tensor expected = io.at(name + ".out").slice(1, 0, layout.tokens());
    const int64_t head_dim = x.size(3);
    for (const auto dtype : {torch::kFloat32, torch::kFloat64}) {
      const RopeTable table = rope_table(layout, head_dim, dtype, test_device());
      expect_close(apply_rope(x.to(dtype), table), expected, name + ".out", 1e-5);
    }

    // Rows of the table far out, each axis by itself.
    const Tensor rows = io.at(name + ".rows");
    const int64_t most = rows.max().item<int64_t>() + 1;
    const int64_t side = head_dim / 6;
    const int64_t time = head_dim / 2 - 2 * side;
    const std::vector<std::pair<FilmLayout, std::pair<int64_t, int64_t>>> axes = {
        {{most, 1, 1}, {0, time}},
        {{1, most, 1}, {time, time + side}},
        {{1, 1, most}, {time + side, head_dim / 2}}};
    for (const auto& [line, columns] : axes) {
      const RopeTable table = rope_table(line, head_dim, torch::kFloat64, test_device());
      const auto part = [&, from = columns.first, to = columns.second](const Tensor& whole) {
        return whole.slice(1, from, to);
      };
      expect_close(part(table.cos_LP.index_select(0, rows)), part(io.at(name + ".cos")), name + ".cos",
                   1e-12);
      expect_close(part(table.sin_LP.index_select(0, rows)), part(io.at(name + ".sin")), name + ".sin",
                   1e-12);
    }
  }
}

TEST_F(golden, DitSinusoidsAtRealSize) {
  GOLDEN_NEEDS("dit_tiny_io.safetensors");
  const TensorMap io = read("dit_tiny_io.safetensors");
  int cases = 0;
  for (const std::string& name : names_before(io, ".out")) {
    if (name.starts_with("sinusoid")) {
      const Tensor& expected = io.at(name + ".out");
      expect_close(sinusoidal_embedding(io.at(name + ".t"), expected.size(1)), expected, name, 1e-6);
      ++cases;
    }
  }
  if (cases == 0) {
    GTEST_SKIP() << "dit_tiny_io.safetensors lacks sinusoids";
  }
}

// Frames (dimension 2) in pieces of `first`, then `rest`.
std::vector<Tensor> pieces_of(const Tensor& whole, int64_t first, int64_t rest) {
  std::vector<Tensor> pieces;
  for (int64_t at = 0, step = first; at < whole.size(2); at += step, step = rest) {
    pieces.push_back(whole.slice(2, at, std::min(whole.size(2), at + step)));
  }
  return pieces;
}

TEST_F(golden, VaeEncodesWholeAndStreaming) {
  GOLDEN_NEEDS("vae_tiny.safetensors", "vae_tiny_io.safetensors");
  WanVae vae = load_vae();
  const TensorMap io = read("vae_tiny_io.safetensors");
  const std::set<std::string> cases = names_before(io, ".video");
  ASSERT_FALSE(cases.empty());
  for (const std::string& name : cases) {
    const Tensor video = io.at(name + ".video").unsqueeze(0);
    const auto [mean, log_variance] = vae->encode_moments(video);
    expect_close(mean[0], io.at(name + ".mu"), name + ".mu");
    expect_close(torch::cat({mean, log_variance}, 1)[0], io.at(name + ".moments"), name + ".moments");
    expect_close(vae->encode(video)[0], io.at(name + ".z"), name + ".z");

    VaeEncodeStream stream(vae);
    std::map<std::string, std::vector<Tensor>> seen;
    stream.observe(
        [&](const std::string& what, const Tensor& value) { seen[what].push_back(value[0].clone()); });
    std::vector<Tensor> latents;
    for (const Tensor& piece : pieces_of(video, 1, 4)) {
      latents.push_back(stream.next(piece));
    }
    expect_close(torch::cat(latents, 2)[0], io.at(name + ".z"), name + ".z in pieces");
    for (const std::string what : {"pre_quant", "moments"}) {
      expect_close(torch::cat(seen.at(what), 1), io.at(name + "." + what), name + "." + what);
    }
    for (const auto& [key, expected] : io) {
      for (size_t c = 0; c < latents.size(); ++c) {
        if (const auto what = after(key, fmt::format("{}.enc.chunk{}.", name, c))) {
          expect_close(seen.at("encoder." + *what).at(c), expected, key);
        }
      }
    }
  }
}

TEST_F(golden, VaeDropsFramesBeyondTheLastFullPiece) {
  GOLDEN_NEEDS("vae_tiny.safetensors", "vae_tiny_io.safetensors");
  WanVae vae = load_vae();
  const TensorMap io = read("vae_tiny_io.safetensors");
  int cases = 0;
  for (const std::string& name : names_before(io, ".video")) {
    const Tensor video = io.at(name + ".video").unsqueeze(0);
    if (video.size(2) >= 5) {  // 13 -> 11 frames, of which 9 are coded
      const Tensor z = vae->encode(video.slice(2, 0, video.size(2) - 2));
      const Tensor& expected = io.at(name + ".z");
      expect_close(z[0], expected.slice(1, 0, expected.size(1) - 1), name);
      ++cases;
    }
  }
  EXPECT_GT(cases, 0);
}

TEST_F(golden, VaeDecodesWholeAndStreaming) {
  GOLDEN_NEEDS("vae_tiny.safetensors", "vae_tiny_io.safetensors");
  WanVae vae = load_vae();
  const TensorMap io = read("vae_tiny_io.safetensors");
  for (const std::string& name : names_before(io, ".rand_z")) {
    expect_close(vae->decode(io.at(name + ".z").unsqueeze(0))[0], io.at(name + ".recon"), name + ".recon");
    const Tensor z = io.at(name + ".rand_z").unsqueeze(0);
    const Tensor& expected = io.at(name + ".rand_dec");
    expect_close(vae->decode(z)[0], expected, name + ".rand_dec");
    // Pieces of any size give the whole; pieces of one latent frame are the reference's own.
    for (const auto& [first, rest] : std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {1, 2}, {2, 1}}) {
      VaeDecodeStream stream(vae);
      std::map<std::string, std::vector<Tensor>> seen;
      stream.observe(
          [&](const std::string& what, const Tensor& value) { seen[what].push_back(value[0].clone()); });
      std::vector<Tensor> pixels;
      for (const Tensor& piece : pieces_of(z, first, rest)) {
        pixels.push_back(stream.next(piece));
      }
      expect_close(torch::cat(pixels, 2)[0], expected, name + ".rand_dec in pieces");
      for (const auto& [key, value] : io) {
        for (size_t c = 0; c < pixels.size() && first == 1 && rest == 1; ++c) {
          if (const auto what = after(key, fmt::format("{}.dec.chunk{}.", name, c))) {
            expect_close(seen.at("decoder." + *what).at(c), value, key);
          }
        }
      }
    }
  }
}

TEST_F(golden, TextEncoder) {
  GOLDEN_NEEDS("t5_tiny.safetensors", "t5_tiny_io.safetensors");
  UmT5 encoder(text_config());
  encoder->to(test_device());
  load_weights(*encoder, read("t5_tiny.safetensors"), "t5_tiny.safetensors");
  const TensorMap io = read("t5_tiny_io.safetensors");
  const std::set<std::string> cases = names_before(io, ".ids");
  ASSERT_FALSE(cases.empty());
  for (const std::string& name : cases) {
    const Tensor& ids = io.at(name + ".ids");
    const Tensor& mask = io.at(name + ".mask");
    const Tensor out = encoder->forward(ids, mask, [&](const std::string& what, const Tensor& value) {
      if (const auto found = io.find(name + "." + what); found != io.end()) {
        expect_close(value, found->second, found->first);
      }
    });
    expect_close(out, io.at(name + ".out"), name + ".out");
    for (int64_t i = 0; i < ids.size(0); ++i) {
      const Tensor& context = io.at(fmt::format("{}.context{}", name, i));
      expect_close(out[i].slice(0, 0, context.size(0)), context, fmt::format("{}.context{}", name, i));
      EXPECT_EQ(mask[i].sum().item<int64_t>(), context.size(0)) << name;
    }
    if (const auto unmasked = io.find(name + "_nomask.out"); unmasked != io.end()) {
      expect_close(encoder->forward(ids, torch::ones_like(mask)), unmasked->second, unmasked->first);
    }
  }
}

TEST_F(golden, TextPositionBuckets) {
  GOLDEN_NEEDS("t5_tiny_io.safetensors");
  const TensorMap io = read("t5_tiny_io.safetensors");
  const TextEncoderConfig config = text_config();
  EXPECT_TRUE(relative_position_bucket(io.at("bucket.rel"), config.buckets, config.max_distance)
                  .equal(io.at("bucket.index")));
}

TEST_F(golden, SamplerSchedulesAndTrajectories) {
  GOLDEN_NEEDS("sampler_io.json", "sampler_io.safetensors");
  const auto runs = nlohmann::json::parse(read_file(folder_ / "sampler_io.json")).at("runs");
  const TensorMap io = read("sampler_io.safetensors");
  ASSERT_FALSE(runs.empty());
  for (const auto& [name, run] : runs.items()) {
    SCOPED_TRACE(name);
    const auto solver = enum_value<Solver>(run.at("solver").get<std::string>(), name);
    const FlowSchedule schedule = flow_schedule(solver, run.at("steps"), run.at("shift"));
    // Float64 timesteps that were truncated, and float32 noise levels, are met exactly. diffusers' Euler
    // computes both in float32 alone, hence its last digit.
    const bool exact = run.at("timestep_dtype") == "I64";
    const auto timesteps = run.at("timesteps").get<std::vector<double>>();
    const auto sigmas = run.at("sigmas").get<std::vector<double>>();
    ASSERT_EQ(schedule.timesteps.size(), timesteps.size());
    ASSERT_EQ(schedule.sigmas.size(), sigmas.size());
    for (size_t i = 0; i < timesteps.size(); ++i) {
      EXPECT_NEAR(schedule.timesteps[i], timesteps[i], exact ? 0 : 1e-4) << i;
      EXPECT_NEAR(static_cast<float>(schedule.sigmas[i]), sigmas[i], exact ? 0 : 1e-7) << i;
    }
    EXPECT_EQ(schedule.sigmas.back(), 0);
    EXPECT_TRUE(torch::tensor(timesteps).equal(io.at(name + ".timesteps").to(torch::kCPU, torch::kFloat32)));

    const Tensor& trajectory = io.at(name + ".traj");
    SolverState start;
    start.x = trajectory[0];
    const auto v = [](const Tensor& x, double t) {
      return 0.3 * x + torch::sin(torch::full({}, static_cast<float>(t), x.options()) / 1000);
    };
    int64_t steps = 0;
    sample_flow(v, start, schedule, [&](const SolverState& state, const Tensor&) {
      expect_close(state.x, trajectory[state.done], fmt::format("step {}", state.done), kSolverRounding);
      ++steps;
    });
    EXPECT_EQ(steps, run.at("steps"));
  }
}

TEST_F(golden, EndToEnd) {
  GOLDEN_NEEDS("dit_tiny.safetensors", "vae_tiny.safetensors", "vae_tiny_io.safetensors",
               "e2e_tiny_io.safetensors");
  WanDit dit = load_dit();
  WanVae vae = load_vae();
  const TensorMap io = read("e2e_tiny_io.safetensors");
  const Tensor noise = io.at("noise").unsqueeze(0);
  const FilmLayout layout{noise.size(2), noise.size(3) / 2, noise.size(4) / 2};
  const DitPlan plan = plan_dit({layout}, GlobalText::kNone, dit->config(), test_device());
  const Tensor text = stack_captions({io.at("context")});
  const Tensor no_text = stack_captions({io.at("context_null")});
  const std::set<std::string> cases = names_before(io, ".latents");
  ASSERT_FALSE(cases.empty());
  for (const std::string& name : cases) {
    const auto number = [&](const std::string& what) { return io.at(name + "." + what).item<double>(); };
    const Tensor& latents = io.at(name + ".latents");
    const Tensor& timesteps = io.at(name + ".timesteps");
    const FlowSchedule schedule =
        flow_schedule(enum_value<Solver>(name, "e2e_tiny_io"), timesteps.size(0), number("shift"));
    EXPECT_TRUE(torch::tensor(schedule.timesteps).to(torch::kInt64).equal(timesteps.cpu())) << name;
    int64_t step = 0;
    const Denoiser denoise = [&](const Tensor& x, double t) {
      const Tensor time = torch::full({1}, t, torch::TensorOptions(test_device()).dtype(torch::kFloat64));
      const Tensor with_text = dit->forward(x, time, text, plan);
      const Tensor without = dit->forward(x, time, no_text, plan);
      expect_close(with_text[0], io.at(name + ".pred_cond")[step], fmt::format("{} pred_cond {}", name, step),
                   kEndToEnd);
      expect_close(without[0], io.at(name + ".pred_uncond")[step],
                   fmt::format("{} pred_uncond {}", name, step), kEndToEnd);
      ++step;
      return guide(with_text, without, number("guidance"));
    };
    SolverState start;
    start.x = noise;
    const Tensor end = sample_flow(denoise, start, schedule, [&](const SolverState& state, const Tensor&) {
      expect_close(state.x[0], latents[state.done], fmt::format("{} latents {}", name, state.done),
                   kEndToEnd);
    });
    expect_close(vae->decode(end)[0], io.at(name + ".video"), name + " video", kEndToEnd);
  }
}

}  // namespace
}  // namespace moga
