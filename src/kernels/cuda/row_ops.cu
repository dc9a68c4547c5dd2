// A block takes a row and keeps it in registers between the statistics and the result, so a row is read once
// and written once; all of it is bound by memory.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "kernels/cuda/row_ops.h"

namespace moga::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kMostThreads = 256;
constexpr int kChunk = kRowChannels;
constexpr int kMostChunks = kMostRowChannels / (kChunk * kMostThreads);  // of a thread

__device__ void load(const float* from, float* x) {
  const auto* four = reinterpret_cast<const float4*>(from);
  const float4 a = __ldg(four);
  const float4 b = __ldg(four + 1);
  x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;
  x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
}

template <typename Half>
__device__ void load(const Half* from, float* x) {
  const uint4 bits = __ldg(reinterpret_cast<const uint4*>(from));
  const auto* halves = reinterpret_cast<const Half*>(&bits);
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    x[i] = static_cast<float>(halves[i]);
  }
}

__device__ void store(const float* x, float* to) {
  auto* four = reinterpret_cast<float4*>(to);
  four[0] = {x[0], x[1], x[2], x[3]};
  four[1] = {x[4], x[5], x[6], x[7]};
}

template <typename Half>
__device__ void store(const float* x, Half* to) {
  uint4 bits;
  auto* halves = reinterpret_cast<Half*>(&bits);
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    halves[i] = static_cast<Half>(x[i]);
  }
  *reinterpret_cast<uint4*>(to) = bits;
}

// The block's sum, on all threads. `warps` has room for a number a warp, and must not be in use before.
__device__ float block_sum(float x, float* warps) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    x += __shfl_xor_sync(0xffffffffU, x, step);
  }
  if (threadIdx.x % kWarp == 0) {
    warps[threadIdx.x / kWarp] = x;
  }
  __syncthreads();
  float sum = 0;
  for (unsigned w = 0; w < blockDim.x / kWarp; ++w) {
    sum += warps[w];
  }
  return sum;
}

// The channels of a thread: chunk i begins at channel(i), if that is one.
__device__ int64_t channel(int i) {
  return static_cast<int64_t>(threadIdx.x + i * blockDim.x) * kChunk;
}

template <typename From>
__device__ void load_row(const void* from, int64_t channels, float (*x)[kChunk]) {
  const From* row = static_cast<const From*>(from) + blockIdx.x * channels;
#pragma unroll
  for (int i = 0; i < kMostChunks; ++i) {
    if (channel(i) < channels) {
      load(row + channel(i), x[i]);
    }
  }
}

template <typename From, typename To>
__global__ void norm_modulate_kernel(const __grid_constant__ NormModulate job) {
  __shared__ float warps[2][kMostThreads / kWarp];
  const int64_t channels = job.channels;
  float x[kMostChunks][kChunk];
  load_row<From>(job.from, channels, x);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kMostChunks; ++i) {
    for (int j = 0; channel(i) < channels && j < kChunk; ++j) {
      sum += x[i][j];
    }
  }
  const float mean = block_sum(sum, warps[0]) / static_cast<float>(channels);
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kMostChunks; ++i) {
    for (int j = 0; channel(i) < channels && j < kChunk; ++j) {
      const float off = x[i][j] - mean;
      squares += off * off;
    }
  }
  const float factor = rsqrtf(block_sum(squares, warps[1]) / static_cast<float>(channels) + job.eps);
  const int64_t modulation = blockIdx.x / job.rows_per_sample * job.modulation_stride;
  To* to = static_cast<To*>(job.to) + blockIdx.x * channels;
#pragma unroll
  for (int i = 0; i < kMostChunks; ++i) {
    if (channel(i) < channels) {
      float scale[kChunk];
      float shift[kChunk];
      load(job.scale + modulation + channel(i), scale);
      load(job.shift + modulation + channel(i), shift);
#pragma unroll
      for (int j = 0; j < kChunk; ++j) {
        x[i][j] = (x[i][j] - mean) * factor * (job.plus + scale[j]) + shift[j];
      }
      store(x[i], to + channel(i));
    }
  }
}

template <typename From, typename To>
__global__ void rms_norm_rope_kernel(const __grid_constant__ RmsNormRope job) {
  __shared__ float warps[kMostThreads / kWarp];
  const int64_t channels = job.channels;
  float x[kMostChunks][kChunk];
  load_row<From>(job.from, channels, x);
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kMostChunks; ++i) {
    for (int j = 0; channel(i) < channels && j < kChunk; ++j) {
      squares += x[i][j] * x[i][j];
    }
  }
  const float factor = rsqrtf(block_sum(squares, warps) / static_cast<float>(channels) + job.eps);
  const int64_t angles = blockIdx.x % job.tokens * (job.head_size / 2);
  To* to = static_cast<To*>(job.to) + blockIdx.x * channels;
#pragma unroll
  for (int i = 0; i < kMostChunks; ++i) {
    const int64_t c = channel(i);
    if (c < channels) {
      float weight[kChunk];
      load(job.weight + c, weight);
#pragma unroll
      for (int j = 0; j < kChunk; ++j) {
        x[i][j] *= factor * weight[j];
      }
      if (job.cos != nullptr) {
        const int64_t at = angles + c % job.head_size / 2;
        const float4 cos4 = __ldg(reinterpret_cast<const float4*>(job.cos + at));
        const float4 sin4 = __ldg(reinterpret_cast<const float4*>(job.sin + at));
        const float cos[] = {cos4.x, cos4.y, cos4.z, cos4.w};
        const float sin[] = {sin4.x, sin4.y, sin4.z, sin4.w};
#pragma unroll
        for (int p = 0; p < kChunk / 2; ++p) {
          const float a = x[i][2 * p];
          const float b = x[i][2 * p + 1];
          x[i][2 * p] = a * cos[p] - b * sin[p];
          x[i][2 * p + 1] = a * sin[p] + b * cos[p];
        }
      }
      store(x[i], to + c);
    }
  }
}

template <typename Job>
bool fits(const Job& job) {
  return job.channels > 0 && job.channels % kRowChannels == 0 && job.channels <= kMostRowChannels;
}

template <typename Body>
void with_type(Element element, const Body& body) {
  switch (element) {
    case Element::kFloat32:
      return body(float());
    case Element::kFloat16:
      return body(__half());
    case Element::kBfloat16:
      return body(__nv_bfloat16());
  }
}

template <typename Job, typename Launch>
const char* run(const Job& job, const Launch& launch) {
  if (!fits(job)) {
    return "a row's channels must be a multiple of 8, 8192 at most";
  }
  if (job.rows == 0) {
    return nullptr;
  }
  const int64_t chunks = job.channels / kChunk;
  const auto threads = static_cast<unsigned>(
      chunks >= kMostThreads ? kMostThreads : (chunks + kWarp - 1) / kWarp * kWarp);
  with_type(job.from_element, [&](auto from) {
    with_type(job.to_element, [&](auto to) { launch(from, to, static_cast<unsigned>(job.rows), threads); });
  });
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace

const char* norm_modulate(const NormModulate& job, Stream stream) {
  return run(job, [&](auto from, auto to, unsigned rows, unsigned threads) {
    norm_modulate_kernel<decltype(from), decltype(to)><<<rows, threads, 0, stream>>>(job);
  });
}

const char* rms_norm_rope(const RmsNormRope& job, Stream stream) {
  if (job.head_size <= 0 || job.head_size % kRowChannels != 0) {
    return "a head's channels must be a multiple of 8";
  }
  return run(job, [&](auto from, auto to, unsigned rows, unsigned threads) {
    rms_norm_rope_kernel<decltype(from), decltype(to)><<<rows, threads, 0, stream>>>(job);
  });
}

}  // namespace moga::cuda
