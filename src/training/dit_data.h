// The films of one stage of the transformer's training, and batches of them.
#pragma once

#include <torch/torch.h>

#include <memory>
#include <string>
#include <vector>

#include "model/wan_dit.h"
#include "training/captions.h"
#include "training/encoded_films.h"
#include "training/loop.h"

namespace moga {

// What the loss is computed from. All tensors on the training device.
struct DitBatch {
  torch::Tensor clean_BZFHW;  // float32
  torch::Tensor noise_BZFHW;
  torch::Tensor levels_B;           // noise levels
  std::vector<torch::Tensor> text;  // CaptionSource::inputs() of B * plan.captions texts
  DitPlan plan;
};

class DitData {
 public:
  // `captions` must outlive this. `sequence`: processes that share each film's tokens, or null.
  DitData(EncodedFilms films, const std::vector<BucketConfig>& buckets, const DitConfig& config,
          CaptionSource& captions, double memory_gib, torch::Device device,
          std::shared_ptr<Communicator> sequence = nullptr);

  // The batch of a step: one bucket's films, each bucket as often as its share of the films. Draws from
  // libtorch's default generators; what is drawn does not depend on the context's part.
  StepInputs draw(const TrainConfig& config, const StepContext& context);
  // The batch that draw() packed into `inputs`.
  DitBatch unpack(const StepInputs& inputs) const;

  // Film `index` with its captions and fixed noise, which depends on the seed alone: for measuring.
  DitBatch film(size_t index, double level, uint64_t noise_seed);

  size_t size() const { return films_.size(); }
  const std::vector<std::string>& skipped() const { return skipped_; }

 private:
  struct Bucket {
    BucketConfig size;
    std::vector<size_t> films;  // indices into films_
    std::vector<FilmLayout> layouts;
    DitPlanSizes sizes;
    DitPlan plan;  // of the newest batch: its tensors come with the inputs
  };
  // The bucket of a step, and how many steps before took the same.
  std::pair<size_t, int64_t> bucket_of(uint64_t seed, int64_t step) const;
  DitBatch batch(const Bucket& bucket, const std::vector<int64_t>& members, const std::vector<bool>& silent);

  const DitConfig& config_;
  CaptionSource& captions_;
  torch::Device device_;
  std::shared_ptr<Communicator> sequence_;
  TensorReader reader_;
  std::vector<EncodedFilm> films_;
  std::vector<std::string> skipped_;
  std::vector<Bucket> buckets_;                     // those that have films
  std::vector<std::pair<size_t, int64_t>> places_;  // of each film: bucket and position in it
  int64_t text_rows_ = 1;                           // of the longest caption
};

}  // namespace moga
