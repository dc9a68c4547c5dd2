// The linear layer of all networks here: like libtorch's, but its weights may be born without values and may
// be narrower than what they are multiplied with.
#pragma once

#include <torch/torch.h>

namespace moga {

// While one lives on this thread, layers are born without values: their weights have a shape but no memory
// (one element, repeated), to be replaced when a checkpoint is loaded. Without it a network of 14 billion
// parameters would first draw 57 GB of random numbers.
class BareWeights {
 public:
  BareWeights();
  ~BareWeights();
  BareWeights(const BareWeights&) = delete;
  BareWeights& operator=(const BareWeights&) = delete;
  static bool on();

 private:
  bool before_;
};

// Float32 zeros that take no memory while BareWeights is on; uninitialised otherwise.
torch::Tensor new_weight(torch::IntArrayRef shape);

// y = x W^T + b. Weights of x's dtype are used as they are. bfloat16 weights under wider activations keep
// their memory small: x is rounded to bfloat16 for the product where the device multiplies bfloat16, and the
// result comes back in x's dtype (the reference's autocast does the same); on a CPU without such instructions
// this one layer's weights are widened for the time of the product.
class LinearImpl : public torch::nn::Module {
 public:
  LinearImpl(int64_t in, int64_t out, bool with_bias = true);
  torch::Tensor forward(const torch::Tensor& x);
  // For training: from now on y = x W^T + b + alpha / rank * (x A^T) B^T (model/lora.h), with float32 A
  // random and B zero, so that nothing changes yet. Throws Error unless 1 <= rank <= min(in, out).
  void add_adapter(int64_t rank, double alpha);

  torch::Tensor weight;  // [out, in]
  torch::Tensor bias;    // [out], or undefined
  torch::Tensor lora_A;  // [rank, in], or undefined: no adapter
  torch::Tensor lora_B;  // [out, rank]

 private:
  torch::Tensor forward_base(const torch::Tensor& x) const;
  double adapter_scale_ = 0;
};
TORCH_MODULE(Linear);

// Whether this CPU has instructions for bfloat16 products and libtorch uses them.
bool cpu_multiplies_bf16();

// y = x W^T + b of any shapes that torch::linear takes; float32 on CPUs through kernels/cpu/matrix_product.h.
// No second derivative there.
torch::Tensor linear_product(const torch::Tensor& x, const torch::Tensor& weight, const torch::Tensor& bias);

// The product of wide activations with bfloat16 weights in each of the two ways.
torch::Tensor linear_rounded(const torch::Tensor& x, const torch::Tensor& weight, const torch::Tensor& bias);
torch::Tensor linear_widened(const torch::Tensor& x, const torch::Tensor& weight, const torch::Tensor& bias);

}  // namespace moga
