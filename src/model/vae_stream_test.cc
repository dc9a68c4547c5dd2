// What decoding in pieces is for: memory that does not grow with the film, nor, in tiles, with the picture.
#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "model/model_folder.h"
#include "model/vae_tiling.h"

namespace moga {
namespace {

using torch::Tensor;

// The type of totals in reports, which differs between versions of libtorch.
template <typename Method>
struct TotalOf;
template <typename Class, typename T>
struct TotalOf<void (Class::*)(void*, int64_t, T, T, c10::Device)> {
  using Type = T;
};
using Total = TotalOf<decltype(&c10::MemoryReportingInfoBase::reportMemoryUsage)>::Type;

// Bytes that tensors take from the CPU allocator while it lives, and their peak.
class TensorBytes : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, int64_t size, Total, Total, c10::Device) override { add(size); }
  bool memoryProfilingEnabled() const override { return true; }
  int64_t peak() const { return peak_; }

 private:
  void add(int64_t size) {
    live_ += size;
    peak_ = std::max(peak_, live_);
  }
  int64_t live_ = 0;
  int64_t peak_ = 0;
};

template <typename F>
int64_t peak_bytes(F&& work) {
  const auto counter = std::make_shared<TensorBytes>();
  {
    const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, counter);
    work();
  }
  return counter->peak();
}

WanVae small_vae() {
  torch::manual_seed(2);
  VaeConfig config;
  config.dim = 4;
  return WanVae(config);
}

// Frames are dropped as a film writer drops them.
void decode_stream(const WanVae& vae, const Tensor& latent, std::optional<VaeTiling> tiling) {
  VaeTiledDecodeStream stream(vae, tiling);
  for (int64_t at = 0; at < latent.size(2); ++at) {
    stream.next(latent.slice(2, at, at + 1));
  }
}

TEST(VaeStream, MemoryDoesNotGrowWithTheFilm) {
  const torch::NoGradGuard guard;
  WanVae vae = small_vae();
  const Tensor film = torch::randn({1, 16, 9, 4, 4});
  const auto streamed = [&](int64_t frames) {
    return peak_bytes([&] { decode_stream(vae, film.slice(2, 0, frames), std::nullopt); });
  };
  const auto whole = [&](int64_t frames) {
    return peak_bytes([&] { vae->decode(film.slice(2, 0, frames)); });
  };
  EXPECT_GT(streamed(4), 0);
  EXPECT_EQ(streamed(9), streamed(4));
  EXPECT_GT(whole(9), 1.7 * static_cast<double>(whole(4)));
  EXPECT_LT(streamed(9), whole(9) / 2);
}

TEST(VaeTiling, NeedsLessMemory) {
  const torch::NoGradGuard guard;
  WanVae vae = small_vae();
  const Tensor film = torch::randn({1, 16, 3, 24, 24});
  const int64_t whole = peak_bytes([&] { decode_stream(vae, film, std::nullopt); });
  const int64_t tiled = peak_bytes([&] { decode_stream(vae, film, VaeTiling{8, 2}); });
  EXPECT_LT(tiled, 0.75 * static_cast<double>(whole));
}

TEST(VaeTiling, TilesCoverEverySide) {
  for (const int64_t length : {1, 7, 8, 9, 15, 30, 52, 90, 160}) {
    for (const VaeTiling tiling : {VaeTiling{8, 2}, VaeTiling{32, 8}, VaeTiling{8, 7}}) {
      const std::vector<int64_t> starts = tile_starts(length, tiling);
      EXPECT_EQ(starts.front(), 0);
      for (size_t i = 1; i < starts.size(); ++i) {
        EXPECT_GT(starts[i], starts[i - 1]);
        EXPECT_LE(starts[i], starts[i - 1] + tiling.tile - tiling.overlap);
      }
      EXPECT_EQ(starts.back(), std::max<int64_t>(0, length - tiling.tile));
    }
  }
  EXPECT_THROW(VaeTiledDecodeStream(small_vae(), VaeTiling{8, 8}), Error);
}

// With trained weights: a picture in tiles is nearly the whole one, nearer the more the tiles share, and one
// tile is exactly the whole.
TEST(VaeTiling, SeamsAreFaintAndOverlapsMakeThemFainter) {
  const torch::NoGradGuard guard;
  const std::filesystem::path folder = MOGA_SOURCE_DIR "/assets/toy";
  if (!std::filesystem::exists(folder / "vae.safetensors")) {
    GTEST_SKIP() << "no trained VAE in " << folder;
  }
  WanVae vae = ModelFolder(folder).load_vae(torch::kCPU);
  torch::manual_seed(4);
  const Tensor picture =
      torch::upsample_bicubic2d(torch::randn({1, 3, 4, 6}), {128, 192}, false).clamp(-1, 1);
  const Tensor z = vae->encode(picture.unsqueeze(2).expand({-1, -1, 1, -1, -1}));
  const auto decode = [&](std::optional<VaeTiling> tiling) {
    return VaeTiledDecodeStream(vae, tiling).next(z);
  };
  const Tensor whole = vae->decode(z);
  EXPECT_TRUE(decode(std::nullopt).allclose(whole, 1e-4, 1e-4));
  EXPECT_TRUE(decode(VaeTiling{32, 8}).equal(decode(std::nullopt)));
  const auto error = [&](const VaeTiling& tiling) {
    return (decode(tiling) - whole).square().mean().sqrt().item<double>();
  };
  const double bare = error({8, 1});
  const double shared = error({8, 2});
  EXPECT_LT(shared, bare);
  EXPECT_LT(shared, 0.1);  // of a range of 2; the toy VAE's frame attention sees only the tile
}

}  // namespace
}  // namespace moga
