// The judge: reads a toy creature's looks back from pixels, so that generated films can be scored without
// people.
//
// A small convolutional net (about 85,000 parameters) with a head for each attribute, trained on true toy
// frames that are damaged the way decoders and diffusion models damage them (blur, noise, colour drift,
// coarse blocks, ghosts).
#pragma once

#include <torch/torch.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <opencv2/core.hpp>
#include <vector>

#include "data/toy_world.h"

namespace moga {

struct JudgeTraining {
  int64_t steps = 1500;
  int64_t batch = 64;
  double learning_rate = 3e-3;  // the peak; one cycle, ending at 0
  uint64_t seed = 1;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("steps", s.steps, "Optimiser steps");
    v("batch", s.batch, "Frames a step");
    v("learning_rate", s.learning_rate, "Peak learning rate of AdamW (short warm-up, cosine to 0)");
    v("seed", s.seed, "Seeds weights, films and damage");
  }
};

struct JudgeNet;

class Judge {
 public:
  // Untrained, weights drawn from `seed` (the global generators are left alone). On the CPU.
  explicit Judge(uint64_t seed = 1);

  // The looks in frames of one shot (CV_8UC3 RGB of any size; at least one): log-probabilities are averaged
  // over the frames. Throws Error on an empty list or another type.
  Looks read_looks(const std::vector<cv::Mat>& frames) const;
  // images_B3HW float32 in [-1, 1] at kHeight x kWidth, on device() -> [B, V] float32, log-probabilities of
  // the attributes' values one attribute after the other (V = 17 in all; see attribute_values()).
  torch::Tensor log_probabilities(const torch::Tensor& images_B3HW) const;

  void to(torch::Device device);
  torch::Device device() const;

  // float32 safetensors, below 400 KB. load() throws Error on a file that is missing, damaged or no judge.
  void save(const std::filesystem::path& path) const;
  static Judge load(const std::filesystem::path& path);

  // The size that the net sees; other sizes are resized to it.
  static constexpr int kWidth = 128;
  static constexpr int kHeight = 80;

 private:
  friend Judge train_judge(const JudgeTraining& training, torch::Device device,
                           const std::function<void(int64_t step, double loss)>& report);
  std::shared_ptr<JudgeNet> net_;
};

// Called after each step with the number of steps done and the batch's mean loss an attribute, in nats.
using JudgeReport = std::function<void(int64_t step, double loss)>;

// Throws Error on settings that are not positive.
Judge train_judge(const JudgeTraining& training, torch::Device device, const JudgeReport& report = {});

// Frame numbers of a shot to judge it by: at most `at_most`, evenly spread, away from the cuts.
std::vector<int64_t> judged_frames(int64_t first_frame, int64_t frame_count, int64_t at_most = 5);

struct JudgeAccuracy {
  int64_t shots = 0;
  std::array<int64_t, kAttributeCount> right{};
  int64_t all_right = 0;  // shots with all four attributes right
};

// On true toy films of seeds first_seed, first_seed + 1, ... until `shots` shots have been read. Training
// draws its films from 64-bit random seeds, so small seeds are held out.
JudgeAccuracy measure_judge(const Judge& judge, int64_t shots, uint64_t first_seed = 0);

}  // namespace moga
