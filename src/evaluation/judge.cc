#include "evaluation/judge.h"

#include <ATen/CPUGeneratorImpl.h>

#include <cmath>
#include <map>
#include <opencv2/imgproc.hpp>
#include <string>

#include "base/error.h"
#include "data/toy_random.h"
#include "evaluation/judge_damage.h"
#include "io/safetensors.h"

namespace moga {
namespace {

constexpr int kStages = 5;
// Channels in and out of each stage; every stage but the last halves the picture (128 x 80 -> 8 x 5).
constexpr std::array<int64_t, kStages + 1> kChannels = {3, 16, 32, 48, 64, 64};
constexpr int64_t kChunk = 64;  // frames a forward pass when reading

int64_t value_count(int attribute) {
  return static_cast<int64_t>(attribute_values(static_cast<Attribute>(attribute)).size());
}

int64_t value_sum() {
  int64_t sum = 0;
  for (int a = 0; a < kAttributeCount; ++a) {
    sum += value_count(a);
  }
  return sum;
}

// CV_8UC3 frames of the judge's size -> [B, 3, H, W] float32 in [-1, 1].
torch::Tensor to_images(const std::vector<cv::Mat>& frames, torch::Device device) {
  auto bytes_BHW3 =
      torch::empty({static_cast<int64_t>(frames.size()), Judge::kHeight, Judge::kWidth, 3}, torch::kUInt8);
  for (size_t i = 0; i < frames.size(); ++i) {
    cv::Mat target(Judge::kHeight, Judge::kWidth, CV_8UC3,
                   bytes_BHW3[static_cast<int64_t>(i)].data_ptr<uint8_t>());
    frames[i].copyTo(target);
  }
  return bytes_BHW3.to(device).permute({0, 3, 1, 2}).to(torch::kFloat32).div(127.5).sub(1);  // [B, 3, H, W]
}

void check_training(const JudgeTraining& t) {
  MOGA_CHECK(t.steps >= 1 && t.batch >= 2 && std::isfinite(t.learning_rate) && t.learning_rate > 0,
             "judge training: expected steps >= 1, batch >= 2 and learning_rate > 0, found {}, {} and {}",
             t.steps, t.batch, t.learning_rate);
}

// Short warm-up, then a cosine down to 0.
double learning_rate_at(const JudgeTraining& t, int64_t step) {
  const double warm = std::max(1.0, 0.05 * static_cast<double>(t.steps));
  const double now = static_cast<double>(step) + 1;
  if (now < warm) {
    return t.learning_rate * now / warm;
  }
  const double progress = (now - warm) / std::max(1.0, static_cast<double>(t.steps) - warm);
  return t.learning_rate * 0.5 * (1 + std::cos(3.14159265358979 * std::min(1.0, progress)));
}

struct Example {
  cv::Mat rgb;
  Looks looks{};
};

Example draw_example(ToyRandom& random) {
  ToyFilmSettings settings;
  settings.width = Judge::kWidth;
  settings.height = Judge::kHeight;
  settings.max_frames = 65;
  settings.max_shots = 4;
  const ToyFilm film = make_toy_film(random.next(), settings);
  const int64_t frame = random.below(film.total_frames());
  size_t shot = 0;
  while (shot + 1 < film.shots.size() && film.shots[shot + 1].first_frame <= frame) {
    ++shot;
  }
  return {draw_toy_frame(film, frame, settings),
          film.characters.at(static_cast<size_t>(film.shots[shot].character)).looks};
}

}  // namespace

struct JudgeNet : torch::nn::Module {
  explicit JudgeNet(uint64_t seed) {
    auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
    torch::NoGradGuard no_grad;
    for (size_t i = 0; i < kStages; ++i) {
      convolutions[i] =
          register_module(fmt::format("convolution{}", i),
                          torch::nn::Conv2d(torch::nn::Conv2dOptions(kChannels[i], kChannels[i + 1], 3)
                                                .stride(i + 1 < kStages ? 2 : 1)
                                                .padding(1)
                                                .bias(false)));
      norms[i] = register_module(fmt::format("norm{}", i), torch::nn::BatchNorm2d(kChannels[i + 1]));
      // He's normal initialisation: variance 2 / fan-in keeps the scale through ReLU.
      convolutions[i]->weight.normal_(0, std::sqrt(2.0 / (9.0 * static_cast<double>(kChannels[i]))),
                                      generator);
    }
    const int64_t width = 2 * kChannels.back();
    heads = register_module("heads", torch::nn::Linear(width, value_sum()));
    heads->weight.normal_(0, 1 / std::sqrt(static_cast<double>(width)), generator);
    heads->bias.zero_();
  }

  // [B, 3, H, W] -> [B, V] log-probabilities
  torch::Tensor forward(const torch::Tensor& images_B3HW) {
    auto x = images_B3HW;
    for (size_t i = 0; i < kStages; ++i) {
      x = torch::relu(norms[i]->forward(convolutions[i]->forward(x)));
    }
    // The creature is a small part of the picture: the maximum sees it, the mean sees how much of it there
    // is.
    const auto pooled = torch::cat({x.mean({2, 3}), x.amax({2, 3})}, 1);  // [B, 2C]
    const auto scores = heads->forward(pooled);                           // [B, V]
    std::vector<torch::Tensor> parts;
    int64_t begin = 0;
    for (int a = 0; a < kAttributeCount; ++a) {
      parts.push_back(torch::log_softmax(scores.narrow(1, begin, value_count(a)), 1));
      begin += value_count(a);
    }
    return torch::cat(parts, 1);
  }

  // Weights and running statistics by name.
  std::map<std::string, torch::Tensor> tensors() const {
    std::map<std::string, torch::Tensor> all;
    for (const auto& item : named_parameters()) {
      all[item.key()] = item.value();
    }
    for (const auto& item : named_buffers()) {
      if (item.value().is_floating_point()) {  // not the count of batches
        all[item.key()] = item.value();
      }
    }
    return all;
  }

  std::array<torch::nn::Conv2d, kStages> convolutions{{nullptr, nullptr, nullptr, nullptr, nullptr}};
  std::array<torch::nn::BatchNorm2d, kStages> norms{{nullptr, nullptr, nullptr, nullptr, nullptr}};
  torch::nn::Linear heads{nullptr};
};

Judge::Judge(uint64_t seed) : net_(std::make_shared<JudgeNet>(seed)) {
  net_->eval();
}

torch::Tensor Judge::log_probabilities(const torch::Tensor& images_B3HW) const {
  MOGA_CHECK(images_B3HW.dim() == 4 && images_B3HW.size(1) == 3 && images_B3HW.size(2) == kHeight &&
                 images_B3HW.size(3) == kWidth && images_B3HW.scalar_type() == torch::kFloat32,
             "judge: expected float32 images [B, 3, {}, {}], found {} {}", kHeight, kWidth,
             c10::toString(images_B3HW.scalar_type()), fmt::join(images_B3HW.sizes(), "x"));
  torch::NoGradGuard no_grad;
  return net_->forward(images_B3HW);
}

Looks Judge::read_looks(const std::vector<cv::Mat>& frames) const {
  MOGA_CHECK(!frames.empty(), "judge: expected at least one frame, found none");
  auto sum_V = torch::zeros({value_sum()}, torch::kFloat64);
  std::vector<cv::Mat> chunk;
  for (size_t i = 0; i < frames.size(); ++i) {
    MOGA_CHECK(!frames[i].empty() && frames[i].type() == CV_8UC3,
               "judge: expected 8-bit RGB frames, found {} channels of depth {}", frames[i].channels(),
               frames[i].depth());
    cv::Mat resized = frames[i];
    if (resized.cols != kWidth || resized.rows != kHeight) {
      cv::resize(frames[i], resized, {kWidth, kHeight}, 0, 0, cv::INTER_AREA);
    }
    chunk.push_back(resized);
    if (static_cast<int64_t>(chunk.size()) == kChunk || i + 1 == frames.size()) {
      sum_V += log_probabilities(to_images(chunk, device())).to(torch::kCPU, torch::kFloat64).sum(0);
      chunk.clear();
    }
  }
  Looks looks{};
  int64_t begin = 0;
  for (int a = 0; a < kAttributeCount; ++a) {
    looks[static_cast<size_t>(a)] =
        static_cast<int>(sum_V.narrow(0, begin, value_count(a)).argmax().item<int64_t>());
    begin += value_count(a);
  }
  return looks;
}

void Judge::to(torch::Device device) {
  net_->to(device);
}

torch::Device Judge::device() const {
  return net_->heads->weight.device();
}

void Judge::save(const std::filesystem::path& path) const {
  std::map<std::string, torch::Tensor> tensors;
  for (const auto& [name, tensor] : net_->tensors()) {
    tensors[name] = tensor.detach();
  }
  write_safetensors(path, tensors, {{"format", "moga toy judge 1"}});
}

Judge Judge::load(const std::filesystem::path& path) {
  const SafetensorsFile file(path);
  Judge judge;
  const auto tensors = judge.net_->tensors();
  torch::NoGradGuard no_grad;
  for (const auto& [name, tensor] : tensors) {
    MOGA_CHECK(file.contains(name), "{}: expected a toy judge, found no tensor '{}'", path.string(), name);
    const torch::Tensor stored = file.read(name);
    MOGA_CHECK(stored.sizes() == tensor.sizes(), "{}: {}: expected shape [{}], found [{}]", path.string(),
               name, fmt::join(tensor.sizes(), ", "), fmt::join(stored.sizes(), ", "));
    torch::Tensor target = tensor;
    target.copy_(stored);
  }
  MOGA_CHECK(file.tensors().size() == tensors.size(), "{}: expected the {} tensors of a toy judge, found {}",
             path.string(), tensors.size(), file.tensors().size());
  return judge;
}

Judge train_judge(const JudgeTraining& training, torch::Device device, const JudgeReport& report) {
  check_training(training);
  Judge judge(training.seed);
  judge.to(device);
  judge.net_->train();
  ToyRandom random(training.seed * 0xD1B54A32D192ED03ULL + 1);
  torch::optim::AdamW optimizer(judge.net_->parameters(),
                                torch::optim::AdamWOptions(training.learning_rate).weight_decay(1e-3));
  for (int64_t step = 0; step < training.steps; ++step) {
    std::vector<cv::Mat> frames;
    auto wanted_BA = torch::empty({training.batch, kAttributeCount}, torch::kInt64);
    cv::Mat other;
    for (int64_t i = 0; i < training.batch; ++i) {
      const Example example = draw_example(random);
      frames.push_back(damage_frame(example.rgb, other.empty() ? example.rgb : other, random));
      other = example.rgb;
      for (int a = 0; a < kAttributeCount; ++a) {
        wanted_BA[i][a] = example.looks[static_cast<size_t>(a)];
      }
    }
    static_cast<torch::optim::AdamWOptions&>(optimizer.param_groups()[0].options())
        .lr(learning_rate_at(training, step));
    optimizer.zero_grad();
    const auto images = to_images(frames, device);
    const auto log_p_BV = judge.net_->forward(images);
    wanted_BA = wanted_BA.to(device);
    auto loss = torch::zeros({}, log_p_BV.options());
    int64_t begin = 0;
    for (int a = 0; a < kAttributeCount; ++a) {
      loss = loss + torch::nll_loss(log_p_BV.narrow(1, begin, value_count(a)), wanted_BA.select(1, a));
      begin += value_count(a);
    }
    loss = loss / kAttributeCount;
    loss.backward();
    optimizer.step();
    if (report) {
      report(step + 1, loss.item<double>());
    }
  }
  judge.net_->eval();
  return judge;
}

std::vector<int64_t> judged_frames(int64_t first_frame, int64_t frame_count, int64_t at_most) {
  MOGA_CHECK(frame_count >= 1 && at_most >= 1,
             "judge: expected a shot and a sample of 1 frame or more, found {} and {}", frame_count, at_most);
  const int64_t count = std::min(frame_count, at_most);
  std::vector<int64_t> frames;
  for (int64_t i = 0; i < count; ++i) {
    frames.push_back(first_frame + (2 * i + 1) * frame_count / (2 * count));
  }
  return frames;
}

JudgeAccuracy measure_judge(const Judge& judge, int64_t shots, uint64_t first_seed) {
  ToyFilmSettings settings;
  settings.width = Judge::kWidth;
  settings.height = Judge::kHeight;
  JudgeAccuracy accuracy;
  for (uint64_t seed = first_seed; accuracy.shots < shots; ++seed) {
    const ToyFilm film = make_toy_film(seed, settings);
    for (size_t s = 0; s < film.shots.size() && accuracy.shots < shots; ++s) {
      const ToyShot& shot = film.shots[s];
      std::vector<cv::Mat> frames;
      for (const int64_t frame : judged_frames(shot.first_frame, shot.frame_count)) {
        frames.push_back(draw_toy_frame(film, frame, settings));
      }
      const Looks read = judge.read_looks(frames);
      const Looks& looks = film.characters.at(static_cast<size_t>(shot.character)).looks;
      ++accuracy.shots;
      accuracy.all_right += read == looks ? 1 : 0;
      for (size_t a = 0; a < looks.size(); ++a) {
        accuracy.right[a] += read[a] == looks[a] ? 1 : 0;
      }
    }
  }
  return accuracy;
}

}  // namespace moga
