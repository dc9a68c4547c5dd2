#include "evaluation/judge.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <opencv2/imgproc.hpp>

#include "base/atomic_file.h"
#include "base/error.h"
#include "data/toy_random.h"
#include "evaluation/judge_damage.h"
#include "io/safetensors.h"

namespace moga {
namespace {

std::filesystem::path temporary(const std::string& name) {
  return std::filesystem::temp_directory_path() / fmt::format("moga_judge_{}_{}", getpid(), name);
}

const std::filesystem::path& shipped() {
  static const std::filesystem::path kPath = std::string(MOGA_SOURCE_DIR) + "/assets/toy/judge.safetensors";
  return kPath;
}

TEST(Judge, LossFallsAndTrainingIsRepeatable) {
  JudgeTraining training;
  training.steps = 24;
  training.batch = 16;
  std::vector<double> losses;
  train_judge(training, torch::kCPU, [&](int64_t step, double loss) {
    EXPECT_EQ(step, static_cast<int64_t>(losses.size()) + 1);
    losses.push_back(loss);
  });
  ASSERT_EQ(losses.size(), 24U);
  const double early = (losses[0] + losses[1] + losses[2]) / 3;
  const double late = (losses[21] + losses[22] + losses[23]) / 3;
  EXPECT_LT(late, early - 0.15);
  training.steps = 2;
  std::vector<double> again;
  std::vector<double> other;
  train_judge(training, torch::kCPU, [&](int64_t, double loss) { again.push_back(loss); });
  EXPECT_EQ(again[0], losses[0]);
  training.seed = 2;
  train_judge(training, torch::kCPU, [&](int64_t, double loss) { other.push_back(loss); });
  EXPECT_NE(other[0], losses[0]);
}

TEST(Judge, SavesAndLoads) {
  const ToyFilm film = make_toy_film(3, {});
  const Judge judge(5);
  const std::filesystem::path path = temporary("save.safetensors");
  judge.save(path);
  EXPECT_LT(std::filesystem::file_size(path), 400000U);
  const Judge loaded = Judge::load(path);
  std::filesystem::remove(path);
  const auto images = torch::rand({3, 3, Judge::kHeight, Judge::kWidth}) * 2 - 1;
  const auto log_p = judge.log_probabilities(images);
  EXPECT_TRUE(torch::equal(log_p, loaded.log_probabilities(images)));
  EXPECT_FALSE(torch::equal(log_p, Judge(6).log_probabilities(images)));
  // Four distributions a frame.
  EXPECT_EQ(log_p.size(1), 17);
  EXPECT_TRUE(torch::allclose(log_p.exp().sum(1), torch::full({3}, 4.0)));
}

TEST(Judge, DamagedFilesAreErrors) {
  const std::filesystem::path path = temporary("bad.safetensors");
  EXPECT_THROW(Judge::load(path), Error);
  write_file_atomic(path, "no tensors here");
  EXPECT_THROW(Judge::load(path), Error);
  write_safetensors(path, {{"something", torch::zeros({2})}});
  EXPECT_THROW(Judge::load(path), Error);
  Judge(1).save(path);
  auto tensors = SafetensorsFile(path).read_all();
  tensors["heads.bias"] = torch::zeros({16});
  write_safetensors(path, tensors);
  EXPECT_THROW(Judge::load(path), Error);
  std::filesystem::remove(path);
}

TEST(Judge, BadInputIsAnError) {
  const Judge judge;
  EXPECT_THROW(judge.read_looks({}), Error);
  EXPECT_THROW(judge.read_looks({cv::Mat(80, 128, CV_8UC1)}), Error);
  EXPECT_THROW(judge.log_probabilities(torch::zeros({1, 3, 10, 10})), Error);
  JudgeTraining training;
  training.steps = 0;
  EXPECT_THROW(train_judge(training, torch::kCPU), Error);
  training = {};
  training.learning_rate = -1;
  EXPECT_THROW(train_judge(training, torch::kCPU), Error);
}

TEST(Judge, JudgedFramesStayInsideTheShot) {
  EXPECT_EQ(judged_frames(10, 1, 5), (std::vector<int64_t>{10}));
  EXPECT_EQ(judged_frames(10, 10, 2), (std::vector<int64_t>{12, 17}));
  EXPECT_EQ(judged_frames(0, 3, 5), (std::vector<int64_t>{0, 1, 2}));
  EXPECT_THROW(judged_frames(0, 0, 5), Error);
}

TEST(JudgeDamage, IsRepeatableAndVaries) {
  const ToyFilm film = make_toy_film(1, {});
  const cv::Mat frame = draw_toy_frame(film, 0, {});
  const cv::Mat other = draw_toy_frame(film, 40, {});
  ToyRandom a(3);
  ToyRandom b(3);
  cv::Mat last;
  for (int i = 0; i < 20; ++i) {
    const cv::Mat one = damage_frame(frame, other, a);
    ASSERT_EQ(one.size(), frame.size());
    ASSERT_EQ(one.type(), CV_8UC3);
    EXPECT_EQ(cv::norm(one, damage_frame(frame, other, b), cv::NORM_INF), 0);
    // Still the same picture.
    EXPECT_LT(cv::norm(one, frame, cv::NORM_L1) / static_cast<double>(frame.total() * 3), 45);
    if (!last.empty()) {
      EXPECT_GT(cv::norm(one, last, cv::NORM_L1), 0);
    }
    last = one;
  }
}

// The shipped judge on true films that it has not seen; the yardstick must be far better than what it
// measures.
TEST(ShippedJudge, ReadsTrueFilms) {
  if (!std::filesystem::exists(shipped())) {
    GTEST_SKIP() << shipped() << " is missing";
  }
  const JudgeAccuracy accuracy = measure_judge(Judge::load(shipped()), 300);
  ASSERT_EQ(accuracy.shots, 300);
  for (int a = 0; a < kAttributeCount; ++a) {
    EXPECT_GE(accuracy.right.at(static_cast<size_t>(a)), 294) << attribute_name(static_cast<Attribute>(a));
  }
  EXPECT_GE(accuracy.all_right, 294);
}

TEST(ShippedJudge, ReadsBlurredEnlargedAndNoisyFilms) {
  if (!std::filesystem::exists(shipped())) {
    GTEST_SKIP() << shipped() << " is missing";
  }
  const Judge judge = Judge::load(shipped());
  cv::RNG random(11);
  int shots = 0;
  int right = 0;
  for (uint64_t seed = 300; seed < 312; ++seed) {
    const ToyFilm film = make_toy_film(seed, {});
    for (const ToyShot& shot : film.shots) {
      std::vector<cv::Mat> frames;
      for (const int64_t i : judged_frames(shot.first_frame, shot.frame_count, 3)) {
        cv::Mat frame = draw_toy_frame(film, i, {});
        cv::GaussianBlur(frame, frame, {}, 1.2);
        cv::Mat noise(frame.size(), CV_16SC3);
        random.fill(noise, cv::RNG::NORMAL, 0, 10);
        cv::add(frame, noise, frame, cv::noArray(), CV_8U);
        cv::resize(frame, frame, {}, 1.5, 1.5, cv::INTER_LINEAR);
        frames.push_back(frame);
      }
      ++shots;
      right += judge.read_looks(frames) == film.characters[static_cast<size_t>(shot.character)].looks ? 1 : 0;
    }
  }
  EXPECT_GT(shots, 40);
  EXPECT_GE(right * 100, shots * 95) << right << " of " << shots;
}

}  // namespace
}  // namespace moga
