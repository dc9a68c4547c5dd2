#include "training/latent_writer.h"

#include <torch/torch.h>

#include <mutex>

#include "base/error.h"
#include "data/latent_film.h"
#include "media/frame_tensor.h"
#include "model/model_folder.h"

namespace moga {

struct LatentWriter::Impl {
  explicit Impl(const std::filesystem::path& path)
      : folder(path),
        device(torch::cuda::is_available() ? torch::kCUDA : torch::kCPU),
        vae(folder.load_vae(device)),
        hash(folder.vae_fingerprint()) {
    vae->eval();
  }
  ModelFolder folder;
  torch::Device device;
  WanVae vae;
  std::string hash;
  std::mutex mutex;
};

LatentWriter::LatentWriter(const std::filesystem::path& model) : impl_(std::make_unique<Impl>(model)) {}
LatentWriter::~LatentWriter() = default;

const std::string& LatentWriter::vae_hash() const {
  return impl_->hash;
}

void LatentWriter::write(const std::filesystem::path& file,
                         const std::function<std::optional<cv::Mat>()>& next) {
  const std::lock_guard lock(impl_->mutex);
  const torch::NoGradGuard guard;
  constexpr int64_t kPiece = 16;  // frames; memory does not grow with the film
  VaeEncodeStream stream(impl_->vae);
  std::vector<torch::Tensor> latents;
  std::vector<torch::Tensor> frames;
  int64_t width = 0;
  int64_t height = 0;
  const auto encode = [&] {
    const torch::Tensor video_TCHW = bytes_to_unit(torch::stack(frames).to(impl_->device));
    latents.push_back(
        stream.next(video_TCHW.transpose(0, 1).unsqueeze(0)).squeeze(0).to(torch::kCPU, torch::kFloat16));
    frames.clear();
  };
  while (const auto picture = next()) {
    width = picture->cols;
    height = picture->rows;
    frames.push_back(image_to_tensor(*picture));
    if (static_cast<int64_t>(frames.size()) == (latents.empty() ? kPiece + 1 : kPiece)) {
      encode();
    }
  }
  if (!frames.empty()) {
    encode();
  }
  MOGA_CHECK(!latents.empty(), "{}: no frames", file.string());
  write_latent_film(file, torch::cat(latents, 1), impl_->hash, width, height);
}

}  // namespace moga
