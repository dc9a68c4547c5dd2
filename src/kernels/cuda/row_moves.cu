// Rows by index. A warp takes a row: its 32 threads read 16 bytes each, neighbours beside each other, several
// reads in flight before the first write. All of it is bound by memory; nothing here is worth more
// cleverness.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "kernels/cuda/token_kernels.h"

namespace moga::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kRowsABlock = 8;  // warps
constexpr int kInFlight = 6;    // a row of 12 heads of 128 halves is 6 reads of a warp

const char* launched() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

unsigned blocks_for(int64_t rows) {
  return static_cast<unsigned>((rows + kRowsABlock - 1) / kRowsABlock);
}

__device__ int64_t warp_row() {
  return static_cast<int64_t>(blockIdx.x) * kRowsABlock + threadIdx.y;
}

// 16 bytes as floats and back.
template <typename T>
struct Pack;

template <>
struct Pack<float> {
  static constexpr int kSize = 4;
  static __device__ void unpack(const uint4& bits, float* x) {
    x[0] = __uint_as_float(bits.x);
    x[1] = __uint_as_float(bits.y);
    x[2] = __uint_as_float(bits.z);
    x[3] = __uint_as_float(bits.w);
  }
  static __device__ uint4 pack(const float* x) {
    return {__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]), __float_as_uint(x[3])};
  }
};

union HalfBits {
  unsigned bits;
  __half2 half;
  __nv_bfloat162 bfloat;
  __device__ HalfBits() : bits(0) {}
};

template <>
struct Pack<__half> {
  static constexpr int kSize = 8;
  static __device__ void unpack(const uint4& bits, float* x) {
    const unsigned words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      HalfBits word;
      word.bits = words[i];
      const float2 pair = __half22float2(word.half);
      x[2 * i] = pair.x;
      x[2 * i + 1] = pair.y;
    }
  }
  static __device__ uint4 pack(const float* x) {
    unsigned words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      HalfBits word;
      word.half = __floats2half2_rn(x[2 * i], x[2 * i + 1]);
      words[i] = word.bits;
    }
    return {words[0], words[1], words[2], words[3]};
  }
};

template <>
struct Pack<__nv_bfloat16> {
  static constexpr int kSize = 8;
  static __device__ void unpack(const uint4& bits, float* x) {
    const unsigned words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      HalfBits word;
      word.bits = words[i];
      const float2 pair = __bfloat1622float2(word.bfloat);
      x[2 * i] = pair.x;
      x[2 * i + 1] = pair.y;
    }
  }
  static __device__ uint4 pack(const float* x) {
    unsigned words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      HalfBits word;
      word.bfloat = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
      words[i] = word.bits;
    }
    return {words[0], words[1], words[2], words[3]};
  }
};

struct Gathers {
  RowGather jobs[kMostGathers];
};

__global__ void gather_kernel(const __grid_constant__ Gathers gathers, int64_t row_bytes) {
  const RowGather& job = gathers.jobs[blockIdx.y];
  const int64_t slot = warp_row();
  if (slot >= job.slots) {
    return;
  }
  const auto* from =
      reinterpret_cast<const uint4*>(static_cast<const char*>(job.from) + job.index[slot] * job.from_stride);
  auto* to = reinterpret_cast<uint4*>(static_cast<char*>(job.to) + slot * row_bytes);
  const int64_t chunks = row_bytes / kRowAlignment;
  for (int64_t first = threadIdx.x; first < chunks; first += kWarp * kInFlight) {
    uint4 bits[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      if (first + i * kWarp < chunks) {
        bits[i] = __ldg(from + first + i * kWarp);
      }
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      if (first + i * kWarp < chunks) {
        to[first + i * kWarp] = bits[i];
      }
    }
  }
}

template <typename T>
__global__ void scatter_kernel(const __grid_constant__ RowScatter job) {
  constexpr int kSize = Pack<T>::kSize;
  const int64_t slot = warp_row();
  if (slot >= job.slots) {
    return;
  }
  const int64_t token = job.index == nullptr ? slot : job.index[slot];
  const float factor = job.scale == nullptr ? job.factor : job.factor * job.scale[token];
  const int64_t chunks = job.width / kSize;
  const auto* from = static_cast<const uint4*>(job.from) + slot * chunks;
  auto* to = static_cast<uint4*>(job.to) + token * chunks;
#pragma unroll 6
  for (int64_t c = threadIdx.x; c < chunks; c += kWarp) {
    float x[kSize];
    float sum[kSize];
    Pack<T>::unpack(__ldg(from + c), x);
    if (job.add) {
      Pack<T>::unpack(to[c], sum);
    }
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      sum[i] = job.add ? sum[i] + factor * x[i] : factor * x[i];
    }
    to[c] = Pack<T>::pack(sum);
  }
}

template <typename T>
__global__ void scatter_gradient_kernel(const __grid_constant__ RowScatterGradient job) {
  constexpr int kSize = Pack<T>::kSize;
  const int64_t slot = warp_row();
  if (slot >= job.slots) {
    return;
  }
  const int64_t token = job.index == nullptr ? slot : job.index[slot];
  const float factor = job.scale == nullptr ? job.factor : job.factor * job.scale[token];
  const int64_t chunks = job.width / kSize;
  const auto* to_grad = static_cast<const uint4*>(job.to_grad) + token * chunks;
  const auto* from = static_cast<const uint4*>(job.from) + slot * chunks;
  auto* from_grad = static_cast<uint4*>(job.from_grad) + slot * chunks;
  float dot = 0;
#pragma unroll 6
  for (int64_t c = threadIdx.x; c < chunks; c += kWarp) {
    float g[kSize];
    Pack<T>::unpack(__ldg(to_grad + c), g);
    if (job.scale_grad != nullptr) {
      float x[kSize];
      Pack<T>::unpack(__ldg(from + c), x);
#pragma unroll
      for (int i = 0; i < kSize; ++i) {
        dot += g[i] * x[i];
      }
    }
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      g[i] *= factor;
    }
    from_grad[c] = Pack<T>::pack(g);
  }
  if (job.scale_grad != nullptr) {
#pragma unroll
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      dot += __shfl_xor_sync(0xffffffffU, dot, offset);
    }
    if (threadIdx.x == 0) {
      job.scale_grad[slot] = job.factor * dot;
    }
  }
}

template <typename T>
__global__ void sum_kernel(const __grid_constant__ RowSum job) {
  constexpr int kSize = Pack<T>::kSize;
  const int64_t token = warp_row();
  if (token >= job.tokens) {
    return;
  }
  const int64_t begin = job.starts[token];
  const int64_t end = job.starts[token + 1];
  const float factor = job.scale == nullptr ? job.factor : job.factor * job.scale[token];
  const int64_t chunks = job.width / kSize;
  const auto* from = static_cast<const uint4*>(job.from);
  auto* to = static_cast<uint4*>(job.to) + token * chunks;
#pragma unroll 2
  for (int64_t c = threadIdx.x; c < chunks; c += kWarp) {
    float sum[kSize] = {};
    for (int64_t j = begin; j < end; ++j) {
      float x[kSize];
      Pack<T>::unpack(__ldg(from + job.slots[j] * chunks + c), x);
#pragma unroll
      for (int i = 0; i < kSize; ++i) {
        sum[i] += x[i];
      }
    }
    float before[kSize] = {};
    if (job.add) {
      Pack<T>::unpack(to[c], before);
    }
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      sum[i] = before[i] + factor * sum[i];
    }
    to[c] = Pack<T>::pack(sum);
  }
}

template <typename Body>
const char* for_element(Element element, int64_t rows, const Body& body) {
  if (rows == 0) {
    return nullptr;
  }
  switch (element) {
    case Element::kFloat32:
      body(float());
      break;
    case Element::kFloat16:
      body(__half());
      break;
    case Element::kBfloat16:
      body(__nv_bfloat16());
      break;
  }
  return launched();
}

const dim3 kRowBlock(kWarp, kRowsABlock);

}  // namespace

const char* gather_rows(const RowGather* jobs, int count, int64_t row_bytes, Stream stream) {
  Gathers gathers;
  int64_t most = 0;
  for (int i = 0; i < count; ++i) {
    gathers.jobs[i] = jobs[i];
    most = jobs[i].slots > most ? jobs[i].slots : most;
  }
  if (most == 0) {
    return nullptr;
  }
  gather_kernel<<<dim3(blocks_for(most), static_cast<unsigned>(count)), kRowBlock, 0, stream>>>(gathers,
                                                                                                row_bytes);
  return launched();
}

const char* scatter_rows(const RowScatter& job, Stream stream) {
  return for_element(job.element, job.slots, [&](auto type) {
    scatter_kernel<decltype(type)><<<blocks_for(job.slots), kRowBlock, 0, stream>>>(job);
  });
}

const char* scatter_rows_gradient(const RowScatterGradient& job, Stream stream) {
  return for_element(job.element, job.slots, [&](auto type) {
    scatter_gradient_kernel<decltype(type)><<<blocks_for(job.slots), kRowBlock, 0, stream>>>(job);
  });
}

const char* sum_rows(const RowSum& job, Stream stream) {
  return for_element(job.element, job.tokens, [&](auto type) {
    sum_kernel<decltype(type)><<<blocks_for(job.tokens), kRowBlock, 0, stream>>>(job);
  });
}

}  // namespace moga::cuda
