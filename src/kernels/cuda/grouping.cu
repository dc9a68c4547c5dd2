// From router scores to groups: softmax and argmax, then the stable counting sort of tokens by group.
//
// The sort in four launches: each warp counts the ids of a tile of tokens; a warp for each segment adds up
// its counts over the tiles; one block adds up the segments; each warp places its tile's tokens. A token's
// place is then the segment's start + its tokens in earlier tiles + earlier in the tile, and no thread ever
// races another.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "kernels/cuda/token_kernels.h"

namespace moga::cuda {
namespace {

constexpr int kLanes = 32;
constexpr unsigned kAllLanes = 0xffffffffU;
constexpr int kTileWarps = 4;  // tiles a block
constexpr int kTileTokens = 512;
constexpr int kRouteThreads = 128;
constexpr int kScanThreads = 256;

const char* launch_result() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

__host__ __device__ int64_t tiles_of(int64_t tokens) {
  return (tokens + kTileTokens - 1) / kTileTokens;
}

__device__ float widen(float x) {
  return x;
}
__device__ float widen(__half x) {
  return __half2float(x);
}
__device__ float widen(__nv_bfloat16 x) {
  return __bfloat162float(x);
}

// A thread takes a token. Its scores are read three times and come from the cache after the first.
template <typename T>
__global__ void route_kernel(const __grid_constant__ Route job) {
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kRouteThreads + threadIdx.x;
  if (token >= job.tokens) {
    return;
  }
  const T* scores = static_cast<const T*>(job.scores) + token * job.groups;
  float* probs = job.probs + token * job.groups;
  int64_t best = 0;
  float top = widen(scores[0]);
  for (int64_t g = 1; g < job.groups; ++g) {
    const float score = widen(scores[g]);
    if (score > top) {
      top = score;
      best = g;
    }
  }
  float sum = 0;
  for (int64_t g = 0; g < job.groups; ++g) {
    sum += expf(widen(scores[g]) - top);
  }
  for (int64_t g = 0; g < job.groups; ++g) {
    probs[g] = expf(widen(scores[g]) - top) / sum;
  }
  job.ids[token] = best;
  job.top[token] = 1.0F / sum;
}

// Tile counts, later the tokens of the same segment in earlier tiles: [batch, groups, tiles].
__device__ int* tile_counts(const GroupSort& job) {
  return static_cast<int*>(job.workspace);
}

// Calls body(token, id, rank) for the tokens of the warp's tile; rank: tokens of the same id that are before
// it in the tile. counters: the warp's own, [groups]; they end as the tile's counts.
template <typename Body>
__device__ void for_tile(const GroupSort& job, int64_t sample, int64_t tile, int* counters,
                         const Body& body) {
  const int lane = static_cast<int>(threadIdx.x);
  for (int64_t g = lane; g < job.groups; g += kLanes) {
    counters[g] = 0;
  }
  __syncwarp();
  const int64_t begin = tile * kTileTokens;
  for (int64_t first = begin; first < begin + kTileTokens && first < job.tokens; first += kLanes) {
    const int64_t token = first + lane;
    const bool valid = token < job.tokens;
    const int64_t id = valid ? job.ids[sample * job.tokens + token] : job.groups;
    if (valid && (id < 0 || id >= job.groups)) {
      __trap();
    }
    const unsigned peers = __match_any_sync(kAllLanes, static_cast<int>(id));
    const int before = __popc(peers & ((1U << lane) - 1));
    int rank = 0;
    if (valid) {
      rank = counters[id] + before;
      body(token, id, rank);
    }
    __syncwarp();
    if (valid && before == 0) {
      counters[id] += __popc(peers);
    }
    __syncwarp();
  }
}

__global__ void count_kernel(const __grid_constant__ GroupSort job) {
  __shared__ int counters[kTileWarps][kMostSortedGroups];
  const int64_t tiles = tiles_of(job.tokens);
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * kTileWarps + threadIdx.y;
  if (warp >= job.batch * tiles) {
    return;
  }
  const int64_t sample = warp / tiles;
  const int64_t tile = warp % tiles;
  int* own = counters[threadIdx.y];
  for_tile(job, sample, tile, own, [](int64_t, int64_t, int) {});
  for (int64_t g = threadIdx.x; g < job.groups; g += kLanes) {
    tile_counts(job)[(sample * job.groups + g) * tiles + tile] = own[g];
  }
}

// A warp for each segment: counts become counts of earlier tiles; the total goes to offsets[segment + 1].
__global__ void tile_scan_kernel(const __grid_constant__ GroupSort job) {
  const int64_t tiles = tiles_of(job.tokens);
  const int64_t segment = static_cast<int64_t>(blockIdx.x) * kTileWarps + threadIdx.y;
  if (segment >= job.batch * job.groups) {
    return;
  }
  int* counts = tile_counts(job) + segment * tiles;
  const int lane = static_cast<int>(threadIdx.x);
  int carry = 0;
  for (int64_t first = 0; first < tiles; first += kLanes) {
    const bool valid = first + lane < tiles;
    const int count = valid ? counts[first + lane] : 0;
    int running = count;
#pragma unroll
    for (int step = 1; step < kLanes; step *= 2) {
      const int other = __shfl_up_sync(kAllLanes, running, step);
      running += lane >= step ? other : 0;
    }
    if (valid) {
      counts[first + lane] = carry + running - count;
    }
    carry += __shfl_sync(kAllLanes, running, kLanes - 1);
  }
  if (lane == 0) {
    job.offsets[segment + 1] = carry;
  }
}

// One block: totals become ends. Each thread adds up a run of segments.
__global__ void segment_scan_kernel(const __grid_constant__ GroupSort job) {
  __shared__ int64_t sums[kScanThreads];
  const int64_t segments = job.batch * job.groups;
  const int64_t run = (segments + kScanThreads - 1) / kScanThreads;
  const int64_t begin = threadIdx.x * run;
  const int64_t end = begin + run < segments ? begin + run : segments;
  int64_t sum = 0;
  for (int64_t s = begin; s < end; ++s) {
    sum += job.offsets[s + 1];
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  for (int step = 1; step < kScanThreads; step *= 2) {
    const int64_t other = static_cast<int>(threadIdx.x) >= step ? sums[threadIdx.x - step] : 0;
    __syncthreads();
    sums[threadIdx.x] += other;
    __syncthreads();
  }
  int64_t running = sums[threadIdx.x] - sum;
  for (int64_t s = begin; s < end; ++s) {
    running += job.offsets[s + 1];
    job.offsets[s + 1] = running;
  }
  if (threadIdx.x == 0) {
    job.offsets[0] = 0;
  }
}

__global__ void place_kernel(const __grid_constant__ GroupSort job) {
  __shared__ int counters[kTileWarps][kMostSortedGroups];
  const int64_t tiles = tiles_of(job.tokens);
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * kTileWarps + threadIdx.y;
  if (warp >= job.batch * tiles) {
    return;
  }
  const int64_t sample = warp / tiles;
  const int64_t tile = warp % tiles;
  const int* earlier = tile_counts(job);
  for_tile(job, sample, tile, counters[threadIdx.y], [&](int64_t token, int64_t id, int rank) {
    const int64_t segment = sample * job.groups + id;
    job.order[job.offsets[segment] + earlier[segment * tiles + tile] + rank] = sample * job.tokens + token;
  });
}

unsigned blocks_of_tiles(int64_t tiles) {
  return static_cast<unsigned>((tiles + kTileWarps - 1) / kTileWarps);
}

}  // namespace

const char* route_tokens(const Route& job, Stream stream) {
  if (job.tokens == 0) {
    return nullptr;
  }
  const auto blocks = static_cast<unsigned>((job.tokens + kRouteThreads - 1) / kRouteThreads);
  switch (job.element) {
    case Element::kFloat32:
      route_kernel<float><<<blocks, kRouteThreads, 0, stream>>>(job);
      break;
    case Element::kFloat16:
      route_kernel<__half><<<blocks, kRouteThreads, 0, stream>>>(job);
      break;
    case Element::kBfloat16:
      route_kernel<__nv_bfloat16><<<blocks, kRouteThreads, 0, stream>>>(job);
      break;
  }
  return launch_result();
}

int64_t group_sort_workspace(int64_t batch, int64_t tokens, int64_t groups) {
  return batch * groups * tiles_of(tokens) * static_cast<int64_t>(sizeof(int));
}

const char* sort_groups(const GroupSort& job, Stream stream) {
  if (job.groups < 1 || job.groups > kMostSortedGroups) {
    return "the number of groups is beyond what the sort kernel holds";
  }
  const dim3 block(kLanes, kTileWarps);
  const int64_t tiles = job.batch * tiles_of(job.tokens);
  const int64_t segments = job.batch * job.groups;
  if (tiles > 0) {
    count_kernel<<<blocks_of_tiles(tiles), block, 0, stream>>>(job);
  }
  tile_scan_kernel<<<blocks_of_tiles(segments), block, 0, stream>>>(job);
  segment_scan_kernel<<<1, kScanThreads, 0, stream>>>(job);
  if (tiles > 0) {
    place_kernel<<<blocks_of_tiles(tiles), block, 0, stream>>>(job);
  }
  return launch_result();
}

}  // namespace moga::cuda
