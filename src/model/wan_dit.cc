#include "model/wan_dit.h"

#include <optional>

#include "attention/torch_compat.h"
#include "base/error.h"
#include "model/row_ops.h"

namespace moga {

namespace {

constexpr int64_t kPatch = 2;  // rows and columns of a patch; one latent frame deep

bool is_half(torch::ScalarType type) {
  return type == torch::kBFloat16 || type == torch::kFloat16;
}

bool observed(const DitTrace* trace) {
  return trace != nullptr && trace->observe;
}

void note(const DitTrace* trace, const char* name, const torch::Tensor& value) {
  if (observed(trace)) {
    trace->observe(trace->place + name, value);
  }
}

// q, k, v, o projections with q and k normed over the full width, as both attentions of a block have them.
class AttentionProjections : public torch::nn::Module {
 public:
  explicit AttentionProjections(const DitConfig& config)
      : q_(register_module("q", Linear(config.dim, config.dim))),
        k_(register_module("k", Linear(config.dim, config.dim))),
        v_(register_module("v", Linear(config.dim, config.dim))),
        o_(register_module("o", Linear(config.dim, config.dim))),
        norm_q_(register_module("norm_q", RmsNorm(config.dim, config.eps))),
        norm_k_(register_module("norm_k", RmsNorm(config.dim, config.eps))),
        heads_(config.heads) {}

 protected:
  // [..., C] -> [..., N, D]
  torch::Tensor split(const torch::Tensor& x) const { return x.unflatten(-1, {heads_, x.size(-1) / heads_}); }

  Linear q_{nullptr}, k_{nullptr}, v_{nullptr}, o_{nullptr};
  RmsNorm norm_q_{nullptr}, norm_k_{nullptr};
  int64_t heads_;
};

class SelfAttention : public AttentionProjections {
 public:
  explicit SelfAttention(const DitConfig& config) : AttentionProjections(config), config_(config.attention) {
    if (config_.kind == AttentionKind::kMoga || config_.kind == AttentionKind::kDynamic) {
      router_ = register_module("router", Router(config.dim, config_.groups));
    }
  }

  torch::Tensor forward(const torch::Tensor& x_BLC, const DitPlan& plan, DitTrace* trace) {
    const torch::Tensor q_BLC = q_(x_BLC);
    const torch::Tensor k_BLC = k_(x_BLC);
    const torch::Tensor q_LND = split(norm_q_->rotated(q_BLC, heads_, plan.rope)).flatten(0, 1);
    const torch::Tensor k_LND = split(norm_k_->rotated(k_BLC, heads_, plan.rope)).flatten(0, 1);
    const torch::Tensor v_LND = split(v_(x_BLC)).flatten(0, 1);
    note(trace, "self_attn.in", x_BLC);
    if (observed(trace)) {  // what the rotation is fused with
      note(trace, "self_attn.q_norm", norm_q_(q_BLC));
      note(trace, "self_attn.k_norm", norm_k_(k_BLC));
    }
    note(trace, "self_attn.v", v_LND);
    note(trace, "self_attn.q_rope", q_LND);
    note(trace, "self_attn.k_rope", k_LND);
    Routing routing;
    if (router_) {
      routing = router_(x_BLC.flatten(0, 1));
      if (trace != nullptr) {
        trace->routing.push_back(routing);
      }
    }
    const torch::Tensor out_LND = visual_attention(q_LND, k_LND, v_LND, plan.visual, routing, config_);
    torch::Tensor out_BLC = o_(out_LND.flatten(1).view_as(x_BLC));
    note(trace, "self_attn.core", out_LND);
    note(trace, "self_attn.out", out_BLC);
    return out_BLC;
  }

 private:
  MogaConfig config_;
  Router router_{nullptr};
};

class CrossAttention : public AttentionProjections {
 public:
  using AttentionProjections::AttentionProjections;

  // text_RC: rows of all captions of all samples, one after another.
  torch::Tensor forward(const torch::Tensor& x_BLC, const torch::Tensor& text_RC, const DitPlan& plan,
                        DitTrace* trace) {
    const torch::Tensor q_LND = split(norm_q_(q_(x_BLC))).flatten(0, 1);
    const torch::Tensor k_RND = split(norm_k_(k_(text_RC)));
    const torch::Tensor v_RND = split(v_(text_RC));
    const torch::Tensor out_LND = grouped_attention(q_LND, k_RND, v_RND, plan.text).out_LND;
    torch::Tensor out_BLC = o_(out_LND.flatten(1).view_as(x_BLC));
    note(trace, "cross_attn.in", x_BLC);
    note(trace, "cross_attn.q_norm", q_LND);
    note(trace, "cross_attn.k_norm", k_RND);
    note(trace, "cross_attn.core", out_LND);
    note(trace, "cross_attn.out", out_BLC);
    return out_BLC;
  }
};

}  // namespace

class WanBlockImpl : public torch::nn::Module {
 public:
  explicit WanBlockImpl(const DitConfig& config)
      : self_attn_(register_module("self_attn", std::make_shared<SelfAttention>(config))),
        cross_attn_(register_module("cross_attn", std::make_shared<CrossAttention>(config))),
        norm3_(register_module(
            "norm3", torch::nn::LayerNorm(torch::nn::LayerNormOptions({config.dim}).eps(config.eps)))),
        ffn_(register_module("ffn",
                             Mlp(config.dim, config.ffn_dim, config.dim, MlpImpl::Activation::kGeluTanh))),
        modulation_(register_parameter(
            "modulation", torch::randn({1, 6, config.dim}) / std::sqrt(static_cast<double>(config.dim)))),
        eps_(config.eps) {}

  // time_B6C: the projected time embedding, float32.
  torch::Tensor forward(torch::Tensor x_BLC, const torch::Tensor& time_B6C, const torch::Tensor& text_RC,
                        const DitPlan& plan, DitTrace* trace) {
    const auto m = (modulation_ + time_B6C).chunk(6, 1);  // six [B, 1, C]: shift, scale, gate, twice
    x_BLC = gated_sum(x_BLC, m[2], self_attn_->forward(modulated_norm(x_BLC, m[0], m[1], eps_), plan, trace));
    x_BLC = x_BLC + cross_attn_->forward(affine_norm(x_BLC, norm3_->weight, norm3_->bias, eps_), text_RC,
                                         plan, trace);
    const torch::Tensor ffn_in = modulated_norm(x_BLC, m[3], m[4], eps_);
    const torch::Tensor ffn_out = ffn_(ffn_in);
    x_BLC = gated_sum(x_BLC, m[5], ffn_out);
    note(trace, "ffn.in", ffn_in);
    note(trace, "ffn.out", ffn_out);
    note(trace, "out", x_BLC);
    return x_BLC;
  }

  // Of the weights of its linear layers.
  torch::ScalarType product_type() const { return ffn_->weight_type(); }

 private:
  std::shared_ptr<SelfAttention> self_attn_;
  std::shared_ptr<CrossAttention> cross_attn_;
  torch::nn::LayerNorm norm3_{nullptr};
  Mlp ffn_{nullptr};
  torch::Tensor modulation_;
  double eps_;
};

namespace {

// What computing a block once more takes, beside its inputs.
struct BlockCall : torch::CustomClassHolder {
  std::shared_ptr<WanBlockImpl> block;
  std::shared_ptr<const DitPlan> plan;
  std::optional<torch::ScalarType> autocast;
};

// No casts of weights that are kept for later: those made while nothing is recorded would lose the weights'
// gradients when used again.
class FreshCasts {
 public:
  FreshCasts() : before_(at::autocast::is_autocast_cache_enabled()) {
    at::autocast::set_autocast_cache_enabled(false);
  }
  ~FreshCasts() { at::autocast::set_autocast_cache_enabled(before_); }
  FreshCasts(const FreshCasts&) = delete;
  FreshCasts& operator=(const FreshCasts&) = delete;

 private:
  bool before_;
};

// A block whose inside is forgotten after the forward pass. Outputs: x, and of a block with a router its
// probs_LM, group_ids_L and top_prob_L.
class RecomputedBlock : public torch::autograd::Function<RecomputedBlock> {
 public:
  using List = torch::autograd::variable_list;

  static List forward(torch::autograd::AutogradContext* ctx, const torch::Tensor& x_BLC,
                      const torch::Tensor& time_B6C, const torch::Tensor& text_RC,
                      const c10::intrusive_ptr<BlockCall>& call, const DitTrace* trace) {
    ctx->save_for_backward({x_BLC, time_B6C, text_RC});
    ctx->saved_data["call"] = torch::IValue::make_capsule(call);
    List outputs = run(*call, x_BLC, time_B6C, text_RC, trace);
    if (outputs.size() > 1) {
      ctx->mark_non_differentiable({outputs[2]});
    }
    return outputs;
  }

  static List backward(torch::autograd::AutogradContext* ctx, const List& grads) {
    const auto call = c10::static_intrusive_pointer_cast<BlockCall>(ctx->saved_data["call"].toCapsule());
    List inputs;
    for (const torch::Tensor& saved : ctx->get_saved_variables()) {
      inputs.push_back(saved.detach().requires_grad_(saved.requires_grad()));
    }
    List outputs;
    {
      const torch::AutoGradMode record(true);
      const compat::Autocast autocast(inputs[0].device(), call->autocast);
      outputs = run(*call, inputs[0], inputs[1], inputs[2], nullptr);
    }
    List roots;
    List root_grads;
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (grads[i].defined() && outputs[i].requires_grad()) {
        roots.push_back(outputs[i]);
        root_grads.push_back(grads[i]);
      }
    }
    torch::autograd::backward(roots, root_grads);  // adds to the parameters' gradients on its way
    return {inputs[0].grad(), inputs[1].grad(), inputs[2].grad(), {}, {}};
  }

 private:
  static List run(const BlockCall& call, const torch::Tensor& x_BLC, const torch::Tensor& time_B6C,
                  const torch::Tensor& text_RC, const DitTrace* trace) {
    const FreshCasts fresh;
    DitTrace own;
    if (trace != nullptr) {
      own.observe = trace->observe;
      own.place = trace->place;
    }
    List outputs = {call.block->forward(x_BLC, time_B6C, text_RC, *call.plan, &own)};
    if (!own.routing.empty()) {
      const Routing& routing = own.routing.front();
      outputs.insert(outputs.end(), {routing.probs_LM, routing.group_ids_L, routing.top_prob_L});
    }
    return outputs;
  }
};

}  // namespace

static std::shared_ptr<const SequenceParallel> share_tokens(const std::shared_ptr<Communicator>& ranks,
                                                            int64_t batch, const FilmLayout& layout,
                                                            const DitConfig& config) {
  return ranks == nullptr || ranks->size() == 1
             ? nullptr
             : std::make_shared<const SequenceParallel>(ranks, batch, layout.tokens(), config.heads);
}

// Text rows: `slots` captions of config.text_len rows a film, then the film-wide one if there is any.
static GroupIndex text_groups(const FilmLayout& layout, int64_t slots, GlobalText global,
                              const DitConfig& config, const SequenceParallel* sequence) {
  const int64_t rows = config.text_len;
  std::vector<std::pair<int64_t, int64_t>> ranges;
  for (int64_t shot = 0; shot < layout.shots(); ++shot) {
    ranges.emplace_back(shot * rows, (shot + 1) * rows);
  }
  const bool film_wide = global == GlobalText::kLastCaption;
  GroupIndex groups =
      shot_text_groups(layout, ranges, {slots * rows, (film_wide ? slots + 1 : slots) * rows});
  return sequence == nullptr ? groups : queries_of_tokens(groups, sequence->begin(), sequence->end());
}

static int64_t most_shots(const std::vector<FilmLayout>& layouts) {
  int64_t shots = 0;
  for (const FilmLayout& layout : layouts) {
    shots = std::max(shots, layout.shots());
  }
  return shots;
}

DitPlanSizes dit_plan_sizes(const std::vector<FilmLayout>& layouts, GlobalText global,
                            const DitConfig& config, const std::shared_ptr<Communicator>& ranks) {
  DitPlanSizes sizes;
  const auto sequence = share_tokens(ranks, 1, layouts.front(), config);
  sizes.visual = static_group_sizes(layouts, config.attention);
  sizes.shots = most_shots(layouts);
  for (const FilmLayout& layout : layouts) {
    sizes.text.cover(text_groups(layout, sizes.shots, global, config, sequence.get()));
  }
  return sizes;
}

DitPlan plan_dit(const std::vector<FilmLayout>& layouts, GlobalText global, const DitConfig& config,
                 torch::Device device, torch::ScalarType dtype, const DitPlanSizes* sizes,
                 const std::shared_ptr<Communicator>& ranks) {
  DitPlan plan;
  plan.visual =
      plan_static_groups(layouts, config.attention, device, sizes == nullptr ? nullptr : &sizes->visual);
  plan.layout = layouts.front();
  plan.batch = static_cast<int64_t>(layouts.size());
  plan.visual.sequence = share_tokens(ranks, plan.batch, plan.layout, config);
  const SequenceParallel* sequence = plan.visual.sequence.get();
  const int64_t slots = sizes == nullptr ? most_shots(layouts) : sizes->shots;
  plan.captions = slots + (global == GlobalText::kLastCaption ? 1 : 0);
  std::vector<GroupIndex> text;
  for (const FilmLayout& layout : layouts) {
    text.push_back(text_groups(layout, slots, global, config, sequence));
  }
  const int64_t tokens = sequence == nullptr ? plan.layout.tokens() : sequence->local_tokens();
  GroupIndex all = concat_groups(text, tokens, plan.captions * config.text_len);
  plan.text = sizes == nullptr ? to_groups(all, device)
                               : to_padded_groups(std::move(all), sizes->text, plan.batch, device);
  plan.rope = rope_table(plan.layout, config.head_dim(), dtype, device);
  if (sequence != nullptr) {
    plan.rope.cos_LP = plan.rope.cos_LP.narrow(0, sequence->begin(), tokens).clone();
    plan.rope.sin_LP = plan.rope.sin_LP.narrow(0, sequence->begin(), tokens).clone();
  }
  return plan;
}

std::vector<torch::Tensor*> plan_tensors(DitPlan& plan) {
  std::vector<torch::Tensor*> tensors = {&plan.rope.cos_LP, &plan.rope.sin_LP};
  for (Groups* groups : {&plan.visual.windows, &plan.visual.frames, &plan.visual.full, &plan.text}) {
    if (groups->q_index.defined()) {
      tensors.insert(tensors.end(),
                     {&groups->q_index, &groups->q_offsets, &groups->kv_index, &groups->kv_offsets});
    }
  }
  return tensors;
}

torch::Tensor sinusoidal_embedding(const torch::Tensor& timestep_B, int64_t width) {
  const auto wide = torch::TensorOptions().dtype(torch::kFloat64).device(timestep_B.device());
  const int64_t half = width / 2;
  const torch::Tensor frequency = torch::pow(10000.0, -torch::arange(half, wide) / static_cast<double>(half));
  const torch::Tensor angles = torch::outer(timestep_B.to(torch::kFloat64), frequency);
  return torch::cat({angles.cos(), angles.sin()}, 1);
}

WanDitImpl::WanDitImpl(const DitConfig& config) : config_(config) {
  MOGA_CHECK(config.heads > 0 && config.dim % config.heads == 0, "width {} is no multiple of {} heads",
             config.dim, config.heads);
  const int64_t C = config.dim;
  patch_embedding_ = register_module(
      "patch_embedding",
      torch::nn::Conv3d(
          torch::nn::Conv3dOptions(config.in_channels, C, {1, kPatch, kPatch}).stride({1, kPatch, kPatch})));
  text_embedding_ =
      register_module("text_embedding", Mlp(config.text_dim, C, C, MlpImpl::Activation::kGeluTanh));
  time_embedding_ = register_module("time_embedding", Mlp(config.freq_dim, C, C, MlpImpl::Activation::kSilu));
  time_projection_ = Linear(C, 6 * C);
  auto projection = std::make_shared<torch::nn::Module>();
  projection->register_module("1", time_projection_);
  register_module("time_projection", projection);

  auto blocks = std::make_shared<torch::nn::Module>();
  for (int64_t i = 0; i < config.layers; ++i) {
    blocks_.push_back(blocks->register_module(std::to_string(i), std::make_shared<WanBlockImpl>(config)));
  }
  register_module("blocks", blocks);

  head_ = Linear(C, config.out_channels * kPatch * kPatch);
  auto head = std::make_shared<torch::nn::Module>();
  head->register_module("head", head_);
  head_modulation_ =
      head->register_parameter("modulation", torch::randn({1, 2, C}) / std::sqrt(static_cast<double>(C)));
  register_module("head", head);
}

torch::Tensor WanDitImpl::embed_patches(const torch::Tensor& latent_BCFHW, const DitPlan& plan) {
  const auto tokens_of = [&](const torch::Tensor& latent) {
    return patch_embedding_(latent).flatten(2).transpose(1, 2).to(latent.scalar_type());
  };
  const SequenceParallel* sequence = plan.visual.sequence.get();
  if (sequence == nullptr) {
    // Sums of the residual stream keep the order of its first value in memory, and every norm would sort its
    // channels together again.
    return tokens_of(latent_BCFHW).contiguous();
  }
  // The latent frames that hold this process's tokens.
  const int64_t frame = plan.layout.frame_tokens();
  const int64_t first = sequence->begin() / frame;
  const int64_t last = (sequence->end() + frame - 1) / frame;
  return tokens_of(latent_BCFHW.slice(2, first, last))
      .narrow(1, sequence->begin() - first * frame, sequence->local_tokens())
      .contiguous();
}

torch::Tensor WanDitImpl::forward(const torch::Tensor& latent_BCFHW, const torch::Tensor& timestep_B,
                                  const torch::Tensor& captions_BSRT, const DitPlan& plan, DitTrace* trace) {
  const int64_t B = plan.batch;
  const FilmLayout& layout = plan.layout;
  MOGA_CHECK(latent_BCFHW.dim() == 5 && latent_BCFHW.size(0) == B &&
                 latent_BCFHW.size(1) == config_.in_channels && latent_BCFHW.size(2) == layout.frames &&
                 latent_BCFHW.size(3) == layout.rows * kPatch && latent_BCFHW.size(4) == layout.cols * kPatch,
             "expected a latent of [{}, {}, {}, {}, {}], found {}", B, config_.in_channels, layout.frames,
             layout.rows * kPatch, layout.cols * kPatch, fmt::join(latent_BCFHW.sizes(), " x "));
  MOGA_CHECK(captions_BSRT.dim() == 4 && captions_BSRT.size(0) == B &&
                 captions_BSRT.size(1) == plan.captions && captions_BSRT.size(2) <= config_.text_len &&
                 captions_BSRT.size(3) == config_.text_dim,
             "expected captions of [{}, {}, at most {}, {}], found {}", B, plan.captions, config_.text_len,
             config_.text_dim, fmt::join(captions_BSRT.sizes(), " x "));
  const auto dtype = patch_embedding_->weight.scalar_type();

  torch::Tensor x_BLC = embed_patches(latent_BCFHW.to(dtype), plan);
  torch::Tensor time_BC;
  torch::Tensor time_B6C;
  {
    const compat::Autocast off(latent_BCFHW.device(), std::nullopt);  // noise levels need all their digits
    const torch::Tensor sinusoid = sinusoidal_embedding(timestep_B, config_.freq_dim).to(dtype);
    time_BC = time_embedding_(sinusoid);
    time_B6C = time_projection_(torch::silu(time_BC)).unflatten(1, {6, config_.dim});
    note(trace, "sinusoid", sinusoid);
  }
  const torch::Tensor padded =
      torch::constant_pad_nd(captions_BSRT.to(dtype), {0, 0, 0, config_.text_len - captions_BSRT.size(2)}, 0);
  const torch::Tensor text_RC = text_embedding_(padded).flatten(0, 2);

  note(trace, "e", time_BC);
  note(trace, "e0", time_B6C);
  note(trace, "tokens", x_BLC);
  note(trace, "context_padded", padded);
  note(trace, "context_emb", text_RC);

  // On a GPU, beside half-precision weights, what goes from product to product has their type and the
  // residual stream and the norms are float32, as in training with autocast and in the reference.
  std::optional<compat::Autocast> products;
  if (x_BLC.is_cuda() && !compat::autocast_type(x_BLC.device()) && is_half(blocks_.front()->product_type())) {
    products.emplace(x_BLC.device(), blocks_.front()->product_type());
  }
  const bool recompute = recompute_blocks_ && torch::GradMode::is_enabled();
  const auto kept_plan = recompute ? std::make_shared<const DitPlan>(plan) : nullptr;
  for (size_t i = 0; i < blocks_.size(); ++i) {
    if (trace != nullptr) {
      trace->place = "block" + std::to_string(i) + ".";
    }
    if (!recompute) {
      x_BLC = blocks_[i]->forward(x_BLC, time_B6C, text_RC, plan, trace);
      continue;
    }
    const auto call = c10::make_intrusive<BlockCall>();
    call->block = blocks_[i];
    call->plan = kept_plan;
    call->autocast = compat::autocast_type(x_BLC.device());
    // Even where nothing before the block is trained, its own parameters are.
    const torch::Tensor input = x_BLC.requires_grad() ? x_BLC : x_BLC.detach().requires_grad_(true);
    const auto outputs = RecomputedBlock::apply(input, time_B6C, text_RC, call, trace);
    x_BLC = outputs[0];
    if (trace != nullptr && outputs.size() > 1) {
      trace->routing.push_back({outputs[1], outputs[2], outputs[3]});
    }
  }
  if (trace != nullptr) {
    trace->place.clear();
  }
  products.reset();

  const auto m = (head_modulation_ + time_BC.unsqueeze(1)).chunk(2, 1);  // shift, scale
  torch::Tensor out = head_(modulated_norm(x_BLC, m[0], m[1], config_.eps));
  note(trace, "head.tokens", out);
  if (plan.visual.sequence != nullptr) {
    out = plan.visual.sequence->gather_tokens(out);
  }
  // Each token's outputs are laid out as (row, column, channel), channel fastest.
  return out.view({B, layout.frames, layout.rows, layout.cols, kPatch, kPatch, config_.out_channels})
      .permute({0, 6, 1, 2, 4, 3, 5})  // [B, C, F, Y, p, X, p]
      .reshape({B, config_.out_channels, layout.frames, layout.rows * kPatch, layout.cols * kPatch})
      .to(torch::kFloat32);
}

}  // namespace moga
