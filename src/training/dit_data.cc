#include "training/dit_data.h"

#include <ATen/CPUGeneratorImpl.h>

#include <set>

#include "attention/upload.h"
#include "base/error.h"

namespace moga {

DitData::DitData(EncodedFilms films, const std::vector<BucketConfig>& buckets, const DitConfig& config,
                 CaptionSource& captions, double memory_gib, torch::Device device,
                 std::shared_ptr<Communicator> sequence)
    : config_(config),
      captions_(captions),
      device_(device),
      sequence_(std::move(sequence)),
      reader_(memory_gib),
      films_(std::move(films.films)),
      skipped_(std::move(films.skipped)) {
  std::set<std::string> texts = {""};
  for (const EncodedFilm& film : films_) {
    texts.insert(film.captions.begin(), film.captions.end());
  }
  text_rows_ = captions_.rows({texts.begin(), texts.end()});
  places_.resize(films_.size());
  for (size_t b = 0; b < buckets.size(); ++b) {
    Bucket bucket{buckets[b], {}, {}, {}, {}};
    for (size_t i = 0; i < films_.size(); ++i) {
      if (films_[i].bucket == b) {
        places_[i] = {buckets_.size(), static_cast<int64_t>(bucket.films.size())};
        bucket.films.push_back(i);
        bucket.layouts.push_back({bucket.size.latent_frames, bucket.size.height / 16, bucket.size.width / 16,
                                  films_[i].shot_starts});
      }
    }
    if (!bucket.films.empty()) {
      bucket.sizes = dit_plan_sizes(bucket.layouts, GlobalText::kNone, config, sequence_);
      buckets_.push_back(std::move(bucket));
    }
  }
}

std::pair<size_t, int64_t> DitData::bucket_of(uint64_t seed, int64_t step) const {
  const auto choose = [&](int64_t at) {
    uint64_t film = step_seed(~seed, at) % films_.size();  // the bucket of a film drawn evenly
    size_t bucket = 0;
    while (film >= buckets_[bucket].films.size()) {
      film -= buckets_[bucket++].films.size();
    }
    return bucket;
  };
  if (buckets_.size() == 1) {
    return {0, step};
  }
  const size_t bucket = choose(step);
  int64_t before = 0;
  for (int64_t at = 0; at < step; ++at) {
    before += choose(at) == bucket ? 1 : 0;
  }
  return {bucket, before};
}

DitBatch DitData::batch(const Bucket& bucket, const std::vector<int64_t>& members,
                        const std::vector<bool>& silent) {
  DitBatch batch;
  std::vector<FilmLayout> layouts;
  std::vector<torch::Tensor> latents;
  for (const int64_t member : members) {
    const auto at = static_cast<size_t>(member);
    layouts.push_back(bucket.layouts[at]);
    latents.push_back(reader_.read(films_[bucket.films[at]].file, "latents", 1, bucket.size.latent_frames));
  }
  batch.plan =
      plan_dit(layouts, GlobalText::kNone, config_, device_, torch::kFloat32, &bucket.sizes, sequence_);
  batch.clean_BZFHW = upload(torch::stack(latents), device_).to(torch::kFloat32);
  // Films with fewer shots repeat the empty text, and films that lose their captions have nothing else.
  std::vector<std::string> texts;
  for (size_t b = 0; b < members.size(); ++b) {
    const auto& captions = films_[bucket.films[static_cast<size_t>(members[b])]].captions;
    for (size_t slot = 0; slot < static_cast<size_t>(batch.plan.captions); ++slot) {
      texts.push_back(slot < captions.size() && !silent[b] ? captions[slot] : "");
    }
  }
  batch.text = captions_.inputs(texts, text_rows_);
  return batch;
}

StepInputs DitData::draw(const TrainConfig& config, const StepContext& context) {
  const int64_t B = context.stage.batch;
  const auto [b, before] = bucket_of(config.seed, context.step);
  Bucket& bucket = buckets_[b];
  const auto members = batch_indices(config.seed, before, B, static_cast<int64_t>(bucket.films.size()));
  const torch::Tensor dropped = torch::rand({B}) < config.caption_dropout;
  const torch::Tensor levels = draw_noise_levels(B, config.noise, config.noise_shift);
  const int64_t begin = context.part.begin(B);
  const int64_t end = context.part.end(B);
  std::vector<bool> silent;
  for (int64_t i = begin; i < end; ++i) {
    silent.push_back(dropped[i].item<bool>());
  }
  DitBatch batch = this->batch(bucket, {members.begin() + begin, members.begin() + end}, silent);
  std::vector<int64_t> shape = batch.clean_BZFHW.sizes().vec();
  shape[0] = B;
  batch.noise_BZFHW = torch::randn(shape, batch.clean_BZFHW.options()).slice(0, begin, end);
  batch.levels_B = upload(levels.slice(0, begin, end).contiguous(), device_);

  StepInputs inputs;
  inputs.bucket = static_cast<int64_t>(b);
  inputs.tensors = {batch.clean_BZFHW, batch.noise_BZFHW, batch.levels_B};
  inputs.tensors.insert(inputs.tensors.end(), batch.text.begin(), batch.text.end());
  for (const torch::Tensor* tensor : plan_tensors(batch.plan)) {
    inputs.tensors.push_back(*tensor);
  }
  bucket.plan = batch.plan;
  return inputs;
}

DitBatch DitData::unpack(const StepInputs& inputs) const {
  DitBatch batch;
  batch.plan = buckets_[static_cast<size_t>(inputs.bucket)].plan;
  const auto places = plan_tensors(batch.plan);
  const size_t plan_begin = inputs.tensors.size() - places.size();
  batch.clean_BZFHW = inputs.tensors[0];
  batch.noise_BZFHW = inputs.tensors[1];
  batch.levels_B = inputs.tensors[2];
  batch.text.assign(inputs.tensors.begin() + 3,
                    inputs.tensors.begin() + static_cast<std::ptrdiff_t>(plan_begin));
  for (size_t i = 0; i < places.size(); ++i) {
    *places[i] = inputs.tensors[plan_begin + i];
  }
  return batch;
}

DitBatch DitData::film(size_t index, double level, uint64_t noise_seed) {
  const auto [bucket, position] = places_[index];
  DitBatch found = batch(buckets_[bucket], {position}, {false});
  const auto generator = at::make_generator<at::CPUGeneratorImpl>(noise_seed);  // the same on every device
  found.noise_BZFHW = upload(torch::randn(found.clean_BZFHW.sizes(), generator, torch::kFloat32), device_);
  found.levels_B = torch::full({1}, level, found.clean_BZFHW.options());
  return found;
}

}  // namespace moga
