#include "training/step_replay.h"

#ifdef MOGA_TORCH_CUDA
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

#include <map>

namespace moga {

namespace {

StepResult compute_anew(int64_t parts, const StepInputs& inputs, const StepReplay::Compute& compute) {
  StepResult result = compute(inputs);
  (parts == 1 ? result.loss : result.loss / parts).backward();
  result.loss = result.loss.detach();
  return result;
}

}  // namespace

#ifdef MOGA_TORCH_CUDA

// A step of one bucket.
struct Recording {
  int64_t computed = 0;  // steps before the recording: libraries choose and load kernels in them
  std::unique_ptr<at::cuda::CUDAGraph> graph;
  StepInputs inputs;  // what the recorded kernels read
  StepResult result;  // what they write
};

struct StepReplay::Graph {
  c10::cuda::CUDAStream stream;
  c10::cuda::CUDAStreamGuard guard;
  int64_t stage = -1;
  std::map<int64_t, Recording> recordings;  // of this stage, by bucket

  explicit Graph(c10::cuda::CUDAStream own) : stream(own), guard(own) {}
};

StepReplay::StepReplay(torch::Device device, bool graphs) {
  if (device.is_cuda() && graphs) {
    torch::cuda::synchronize(device.index());  // of what the default stream still writes
    graph_ = std::make_unique<Graph>(c10::cuda::getStreamFromPool(/*isHighPriority=*/true, device.index()));
  }
}

StepReplay::~StepReplay() {
  try {
    if (graph_) {
      graph_->stream.synchronize();
    }
  } catch (const std::exception&) {
    // After an error, of which this one is a consequence, there is nothing to wait for.
  }
}

StepResult StepReplay::run(int64_t stage, int64_t parts, const StepInputs& inputs, const Compute& compute) {
  constexpr int64_t kComputedSteps = 3;
  if (!graph_) {
    return compute_anew(parts, inputs, compute);
  }
  if (graph_->stage != stage) {
    graph_->stage = stage;
    graph_->recordings.clear();
  }
  Recording& recording = graph_->recordings[inputs.bucket];
  if (recording.computed < kComputedSteps) {
    ++recording.computed;
    return compute_anew(parts, inputs, compute);
  }
  if (!recording.graph) {
    recording.inputs.bucket = inputs.bucket;
    for (const torch::Tensor& input : inputs.tensors) {
      recording.inputs.tensors.push_back(input.clone());
    }
    auto graph = std::make_unique<at::cuda::CUDAGraph>();
    graph->capture_begin();
    recording.result = compute_anew(parts, recording.inputs, compute);
    graph->capture_end();
    recording.graph = std::move(graph);
  } else {
    for (size_t i = 0; i < inputs.tensors.size(); ++i) {
      recording.inputs.tensors[i].copy_(inputs.tensors[i], /*non_blocking=*/true);
    }
  }
  recording.graph->replay();
  return recording.result;
}

#else

struct StepReplay::Graph {};

StepReplay::StepReplay(torch::Device, bool) {}
StepReplay::~StepReplay() = default;

StepResult StepReplay::run(int64_t, int64_t parts, const StepInputs& inputs, const Compute& compute) {
  return compute_anew(parts, inputs, compute);
}

#endif

}  // namespace moga
