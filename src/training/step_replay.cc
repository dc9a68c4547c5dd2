#include "training/step_replay.h"

#ifdef MOGA_TORCH_CUDA
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace moga {

namespace {

StepResult compute_anew(const std::vector<torch::Tensor>& inputs, const StepReplay::Compute& compute) {
  StepResult result = compute(inputs);
  result.loss.backward();
  result.loss = result.loss.detach();
  return result;
}

}  // namespace

#ifdef MOGA_TORCH_CUDA

struct StepReplay::Graph {
  c10::cuda::CUDAStream stream;
  c10::cuda::CUDAStreamGuard guard;
  int64_t stage = -1;
  int64_t computed =
      0;  // steps of this stage before its recording: libraries choose and load kernels in them
  std::unique_ptr<at::cuda::CUDAGraph> recorded;
  std::vector<torch::Tensor> inputs;  // what the recorded kernels read
  StepResult result;                  // what they write

  explicit Graph(c10::cuda::CUDAStream own) : stream(own), guard(own) {}
};

StepReplay::StepReplay(torch::Device device, bool graphs) {
  if (device.is_cuda() && graphs) {
    torch::cuda::synchronize(device.index());  // of what the default stream still writes
    graph_ = std::make_unique<Graph>(c10::cuda::getStreamFromPool(/*isHighPriority=*/true, device.index()));
  }
}

StepReplay::~StepReplay() {
  if (graph_) {
    graph_->stream.synchronize();
  }
}

StepResult StepReplay::run(int64_t stage, const std::vector<torch::Tensor>& inputs, const Compute& compute) {
  constexpr int64_t kComputedSteps = 3;
  if (!graph_) {
    return compute_anew(inputs, compute);
  }
  Graph& graph = *graph_;
  if (graph.stage != stage) {
    graph.stage = stage;
    graph.computed = 0;
    graph.result = {};
    graph.inputs.clear();
    graph.recorded.reset();
  }
  if (graph.computed < kComputedSteps) {
    ++graph.computed;
    return compute_anew(inputs, compute);
  }
  if (!graph.recorded) {
    for (const torch::Tensor& input : inputs) {
      graph.inputs.push_back(input.clone());
    }
    auto recording = std::make_unique<at::cuda::CUDAGraph>();
    recording->capture_begin();
    graph.result = compute_anew(graph.inputs, compute);
    recording->capture_end();
    graph.recorded = std::move(recording);
  } else {
    for (size_t i = 0; i < inputs.size(); ++i) {
      graph.inputs[i].copy_(inputs[i], /*non_blocking=*/true);
    }
  }
  graph.recorded->replay();
  return graph.result;
}

#else

struct StepReplay::Graph {};

StepReplay::StepReplay(torch::Device, bool) {}
StepReplay::~StepReplay() = default;

StepResult StepReplay::run(int64_t, const std::vector<torch::Tensor>& inputs, const Compute& compute) {
  return compute_anew(inputs, compute);
}

#endif

}  // namespace moga
