// The transformer's own parts of training: what is trained, where films come from, what is measured.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "base/atomic_file.h"
#include "base/error.h"
#include "distributed/device_test_util.h"
#include "io/safetensors.h"
#include "media/video.h"
#include "training/adapters.h"
#include "training/dit_loss.h"
#include "training/metrics.h"
#include "training/tiny_model.h"
#include "training/train.h"

namespace moga {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

class DitTraining : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "moga_dit_training_XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    path_ = name;
    make_tiny_model(path_ / "model");
    config_.model = (path_ / "model").string();
    config_.work = (path_ / "work").string();
    config_.log_every = 1;
    config_.data = toy(4, 1);
    config_.stages[0].steps = 4;
    config_.stages[0].batch = 2;
    config_.stages[0].warmup = 0;
    config_.stages[0].learning_rate = 1e-3;
    config_.stages[0].latent_frames = 3;
  }
  void TearDown() override { fs::remove_all(path_); }

  static DataConfig toy(int64_t films, uint64_t seed, int64_t frames = 17) {
    DataConfig data;
    data.films = films;
    data.seed = seed;
    data.toy.min_frames = data.toy.max_frames = frames;
    data.toy.min_shots = data.toy.max_shots = frames < 9 ? 1 : 2;
    data.toy.min_shot_frames = 4;
    return data;
  }
  static std::string error_of(const std::function<void()>& action) {
    try {
      action();
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }
  // Toy films as files with captions, NAME0.mp4 ...
  void write_clips(const fs::path& folder, int64_t count, int64_t frames, int64_t width,
                   int64_t height) const {
    fs::create_directories(folder);
    for (int64_t i = 0; i < count; ++i) {
      ToyFilmSettings settings = toy(1, 1, frames).toy;
      settings.width = width;
      settings.height = height;
      const ToyFilm film = make_toy_film(40 + static_cast<uint64_t>(i), settings);
      const std::string name = fmt::format("film{}_{}x{}", i, width, height);
      VideoSettings video;
      video.width = width;
      video.height = height;
      video.fps = 8;
      VideoWriter writer(folder / (name + ".mp4"), video);
      for (int64_t f = 0; f < frames; ++f) {
        writer.write(draw_toy_frame(film, f, settings));
      }
      writer.finish();
      write_file_atomic(folder / (name + ".txt"), "A creature walks.\n");
    }
  }
  LatentSource source(const std::string& cache) const {
    const ModelFolder folder(config_.model);
    return {folder.vae_fingerprint(), [folder] { return folder.load_vae(test_device()); }, path_ / cache};
  }
  static torch::Tensor output_of(WanDit dit) {
    const torch::NoGradGuard guard;
    dit->eval();
    const DitConfig& sizes = dit->config();
    const auto plan = plan_dit({{3, 3, 4, {0, 1}}}, GlobalText::kNone, sizes, test_device());
    torch::manual_seed(8);
    const torch::Tensor latent = torch::randn({1, 16, 3, 6, 8}).to(test_device());
    const torch::Tensor captions = torch::randn({1, 2, 4, sizes.text_dim}).to(test_device());
    return dit->forward(latent, torch::full({1}, 500.0, test_device()), captions, plan);
  }

  fs::path path_;
  TrainConfig config_;
};

TEST_F(DitTraining, AnAdapterGoesToAFileAndBack) {
  config_.start_from = config_.model;
  config_.trained = TrainedPart::kLora;
  config_.lora.rank = 4;
  config_.lora.alpha = 8;
  config_.lora.targets = {"self_attn.q", "v", "ffn.0"};
  config_.stages[0].learning_rate = 1e-2;
  const std::string before = read_file(fs::path(config_.model) / "dit.safetensors");
  EXPECT_EQ(train_dit(config_, test_device()), TrainEnd::kFinished);
  EXPECT_EQ(read_file(fs::path(config_.model) / "dit.safetensors"), before);  // the base stays

  const SafetensorsFile file(fs::path(config_.work) / "lora.safetensors");
  EXPECT_TRUE(file.contains("diffusion_model.blocks.1.self_attn.q.lora_A.weight"));
  EXPECT_TRUE(file.contains("diffusion_model.blocks.0.cross_attn.v.lora_B.weight"));
  EXPECT_TRUE(file.contains("diffusion_model.blocks.0.self_attn.router.diff"));
  EXPECT_FALSE(file.contains("diffusion_model.blocks.0.cross_attn.q.lora_A.weight"));
  EXPECT_EQ(file.read("diffusion_model.blocks.0.ffn.0.lora_A.weight").sizes(), (std::vector<int64_t>{4, 48}));

  // The loader of adapters makes the model that was trained.
  const auto saved = Checkpoints(config_.work, 1).load_newest();
  WanDit trained = ModelFolder(config_.model).load_dit(test_device());
  const TrainedWeights weights(trained, config_);
  const torch::NoGradGuard guard;
  for (auto& item : trained->named_parameters()) {
    if (item.value().requires_grad()) {
      item.value().copy_(saved->sets.at("average").at(item.key()));
    }
  }
  ModelSource with(config_.model);
  with.loras = {{file.path(), 1}};
  const torch::Tensor expected = output_of(trained);
  EXPECT_TRUE(output_of(ModelFolder(with).load_dit(test_device())).allclose(expected, 1e-3, 1e-4));
  EXPECT_FALSE(output_of(ModelFolder(config_.model).load_dit(test_device())).allclose(expected, 1e-3, 1e-4));
}

TEST_F(DitTraining, RoutersAloneCanBeTrained) {
  config_.start_from = config_.model;
  config_.trained = TrainedPart::kRouter;
  config_.recompute = true;
  const TensorMap before = SafetensorsFile(fs::path(config_.model) / "dit.safetensors").read_all();
  train_dit(config_, test_device());
  int changed = 0;
  for (const auto& [name, tensor] : SafetensorsFile(fs::path(config_.model) / "dit.safetensors").read_all()) {
    const bool same = tensor.equal(before.at(name));
    changed += same ? 0 : 1;
    EXPECT_TRUE(same || name.find(".router.") != std::string::npos) << name;
  }
  EXPECT_GE(changed, 2);
}

TEST_F(DitTraining, WhatCannotBeTrainedIsSaid) {
  // A folder that is not ours would take the result only at the end, and then refuse it.
  fs::create_directories(path_ / "wan");
  fs::copy_file(path_ / "model/dit.safetensors", path_ / "wan/diffusion_pytorch_model.safetensors");
  TrainConfig wan = config_;
  wan.model = (path_ / "wan").string();
  EXPECT_THAT(error_of([&] { train_dit(wan, test_device()); }),
              HasSubstr("does not take a trained transformer"));
  config_.start_from = config_.model;
  config_.trained = TrainedPart::kLora;
  config_.lora.targets = {"self_attn.q", "qkv"};
  EXPECT_THAT(error_of([&] { train_dit(config_, test_device()); }),
              HasSubstr("no linear layer is called 'qkv'; there are cross_attn.k, cross_attn.o"));
  config_.lora.targets = {"q"};
  config_.lora.rank = 500;
  EXPECT_THAT(error_of([&] { train_dit(config_, test_device()); }), HasSubstr("an adapter of rank 500"));
}

TEST_F(DitTraining, FrozenTextIsEmbeddedOnceAndTheLossIsTheSame) {
  train_dit(config_, test_device());
  const fs::path cache = fs::path(config_.work) / "cache";
  size_t texts = 0;
  for (const auto& entry : fs::directory_iterator(cache / "captions")) {
    texts += entry.path().extension() == ".safetensors" ? 1 : 0;
  }
  EXPECT_GE(texts, 5U);
  const auto frozen = read_metrics(config_.work);
  // The same first loss with the encoder in the loop; it only drifts away as that is trained.
  config_.work = (path_ / "live").string();
  config_.train_text = true;
  config_.start_from = config_.model;
  make_tiny_model(path_ / "model");
  train_dit(config_, test_device());
  config_.work = (path_ / "start").string();
  config_.train_text = false;
  make_tiny_model(path_ / "model");
  train_dit(config_, test_device());
  EXPECT_NEAR(read_metrics(path_ / "start")[0]["loss"].get<double>(),
              read_metrics(path_ / "live")[0]["loss"].get<double>(), 1e-4);
  EXPECT_TRUE(frozen[0]["sparsity"].is_number());
  EXPECT_EQ(frozen[0]["occupancy"].size(), 2U);
  EXPECT_EQ(frozen[0]["occupancy"][0].size(), 3U);
}

// Also: what a film becomes does not depend on its neighbours.
TEST_F(DitTraining, FilmsAreEncodedOnceForAllRuns) {
  const std::vector<BucketConfig> bucket = {{64, 48, 3}};
  const auto first = encode_films(toy(3, 1), bucket, source("cache"));
  ASSERT_EQ(first.films.size(), 3U);
  LatentSource none = source("cache");
  none.vae = []() -> WanVae { fail("the VAE was asked for"); };
  // Other films of the same data, and another order: what is known is not made again.
  const auto again = encode_films(toy(2, 2), bucket, none);
  EXPECT_EQ(again.films[0].file, first.films[1].file);
  EXPECT_EQ(again.films[1].captions, first.films[2].captions);
  EXPECT_EQ(first.films[0].file.parent_path().filename().string().size(), 2U);  // sharded
  EXPECT_THAT(error_of([&] { encode_films(toy(1, 9), bucket, none); }), HasSubstr("the VAE was asked for"));
  none.vae_hash = "another";
  EXPECT_THAT(error_of([&] { encode_films(toy(1, 1), bucket, none); }), HasSubstr("the VAE was asked for"));
  // A damaged file is made anew.
  const torch::Tensor latents = SafetensorsFile(first.films[0].file).read("latents");
  fs::resize_file(first.films[0].file, 100);
  encode_films(toy(1, 1), bucket, source("cache"));
  EXPECT_TRUE(SafetensorsFile(first.films[0].file).read("latents").equal(latents));
  // So is one that holds another film.
  fs::copy_file(first.films[1].file, first.films[0].file, fs::copy_options::overwrite_existing);
  encode_films(toy(1, 1), bucket, source("cache"));
  EXPECT_TRUE(SafetensorsFile(first.films[0].file).read("latents").equal(latents));
  TensorReader reader(1e-9);
  EXPECT_TRUE(reader.read(first.films[0].file, "latents", 1, 2).equal(latents.slice(1, 0, 2)));
}

TEST_F(DitTraining, ManyWritersShareACache) {
  const std::vector<BucketConfig> bucket = {{64, 48, 2}};
  std::vector<std::thread> writers;
  std::vector<EncodedFilms> found(4);
  for (EncodedFilms& mine : found) {
    writers.emplace_back([&, this] { mine = encode_films(toy(3, 5), bucket, source("shared")); });
  }
  for (std::thread& writer : writers) {
    writer.join();
  }
  for (const EncodedFilms& mine : found) {
    ASSERT_EQ(mine.films.size(), 3U);
    for (const EncodedFilm& film : mine.films) {
      EXPECT_EQ(SafetensorsFile(film.file).read("latents").size(1), 2);
    }
  }
  for (const auto& entry : fs::recursive_directory_iterator(path_ / "shared")) {
    EXPECT_FALSE(entry.path().filename().string().starts_with(".")) << entry.path();
  }
}

TEST_F(DitTraining, FilmsGoToTheBucketOfTheirShapeAndLength) {
  const std::vector<BucketConfig> buckets = {{64, 48, 2}, {64, 48, 5}, {48, 64, 3}};
  EXPECT_EQ(choose_bucket({640, 480, 9}, buckets), 0U);
  EXPECT_EQ(choose_bucket({640, 480, 81}, buckets), 1U);
  EXPECT_EQ(choose_bucket({480, 640, 81}, buckets), 2U);
  EXPECT_EQ(choose_bucket({480, 640, 5}, buckets), 0U);  // too short for the upright one
  EXPECT_FALSE(choose_bucket({640, 480, 1}, buckets));

  write_clips(path_ / "clips", 2, 9, 64, 48);
  write_clips(path_ / "clips", 2, 17, 48, 80);
  config_.data.kind = DataKind::kFolder;
  config_.data.folder = (path_ / "clips").string();
  config_.stages[0].buckets = {{0, 0, 3}, {48, 64, 5}};
  config_.stages[0].steps = 12;
  EXPECT_EQ(train_dit(config_, test_device()), TrainEnd::kFinished);
  EXPECT_EQ(read_metrics(config_.work).size(), 12U);
}

// A clip that does not decode, one without captions and one with holes in them, one too short: skipped,
// listed.
TEST_F(DitTraining, BadClipsAreSkippedAndCounted) {
  write_clips(path_ / "clips", 2, 9, 64, 48);
  write_file_atomic(path_ / "clips/broken.mp4", "this is no film");
  write_file_atomic(path_ / "clips/broken.txt", "A creature.\n");
  fs::copy_file(path_ / "clips/film0_64x48.mp4", path_ / "clips/silent.mp4");
  fs::copy_file(path_ / "clips/film0_64x48.mp4", path_ / "clips/holes.mp4");
  write_file_atomic(path_ / "clips/holes.txt", "one\n\ntwo\nthree\nfour\nfive\n");
  write_clips(path_ / "clips", 1, 5, 48, 48);
  DataConfig data;
  data.kind = DataKind::kFolder;
  data.folder = (path_ / "clips").string();
  const auto found = encode_films(data, {{64, 48, 3}}, source("cache"));
  EXPECT_EQ(found.films.size(), 2U);
  ASSERT_EQ(found.skipped.size(), 4U);
  const std::string all = fmt::format("{}", fmt::join(found.skipped, "\n"));
  EXPECT_THAT(all, HasSubstr("broken.mp4"));
  EXPECT_THAT(all, HasSubstr("silent.mp4: no captions"));
  EXPECT_THAT(all, HasSubstr("holes.txt: 5 captions for"));
  EXPECT_THAT(all, HasSubstr("5 frames are too few"));
  fs::remove(path_ / "clips/film0_64x48.mp4");
  fs::remove(path_ / "clips/film1_64x48.mp4");
  EXPECT_THAT(error_of([&] {
                encode_films(data, {{64, 48, 3}}, source("cache"));
              }),
              HasSubstr("none of the 4 films can be used"));
}

TEST_F(DitTraining, ValidationAndSamplesComeEveryFewSteps) {
  config_.stages[0].steps = 5;
  config_.validation.every = 2;
  config_.validation.films = 2;
  config_.validation.latent_frames = 3;
  config_.validation.levels = {0.25, 0.75};
  config_.validation.data = toy(2, 500);
  config_.samples.every = 5;
  config_.samples.scripts = {"a/script.yaml"};
  std::vector<std::string> films;
  TrainOptions options;
  options.make_sample = [&](const ModelSource& model, const fs::path& script, const fs::path& film) {
    EXPECT_EQ(script, "a/script.yaml");
    ModelFolder(model).check_complete();
    ModelFolder(model).load_dit(test_device());
    films.push_back(film.string());
  };
  train_dit(config_, test_device(), options);
  std::vector<int64_t> steps;
  for (const auto& line : read_metrics(config_.work)) {
    if (line.contains("validation")) {
      steps.push_back(line["step"]);
      EXPECT_GT(line["validation"]["0.25"].get<double>(), 0);
      EXPECT_GT(line["validation"]["0.75"].get<double>(), 0);
    }
  }
  EXPECT_THAT(steps, ElementsAre(1, 3, 4));
  EXPECT_THAT(films, ElementsAre((fs::path(config_.work) / "samples/step-00000005/script.mp4").string()));
}

// Two groups of equal size by hand, against the formula of sparsity.
TEST_F(DitTraining, TheShareOfPairsIsCounted) {
  DitConfig dit = ModelFolder(config_.model).config().dit;
  dit.attention.kind = AttentionKind::kDynamic;
  const FilmLayout layout = {2, 2, 2, {0}};
  const DitPlan plan = plan_dit({layout, layout}, GlobalText::kNone, dit, test_device());
  Routing routing;
  routing.probs_LM = torch::ones({16, 3}, test_device()) / 3;
  routing.group_ids_L = torch::tensor({0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2}).to(test_device());
  // The first film has groups of 4 and 4 tokens, half of its pairs; the second has one of 8, all.
  EXPECT_NEAR(attention_share(plan, &routing).item<double>(), (0.5 + 1) / 2, 1e-6);
  dit.attention.kind = AttentionKind::kFull;
  EXPECT_NEAR(
      attention_share(plan_dit({layout}, GlobalText::kNone, dit, test_device()), nullptr).item<double>(), 1,
      1e-6);
}

TEST_F(DitTraining, ConfigsAreChecked) {
  const auto problem = [&](const std::function<void(TrainConfig&)>& change) {
    TrainConfig changed = config_;
    change(changed);
    return error_of([&] { check_config(changed, "run.yaml"); });
  };
  EXPECT_EQ(problem([](TrainConfig&) {}), "no error");
  EXPECT_EQ(problem([](TrainConfig& c) { c.stages.clear(); }), "run.yaml: stages: expected at least one");
  EXPECT_THAT(problem([](TrainConfig& c) { c.stages[0].accumulate = 3; }),
              HasSubstr("stages[0].batch must be a multiple of accumulate, found 2 films in 3 parts"));
  EXPECT_THAT(problem([](TrainConfig& c) { c.stages[0].learning_rate = 0; }),
              HasSubstr("stages[0].learning_rate must be above zero"));
  EXPECT_THAT(problem([](TrainConfig& c) {
                c.stages[0].buckets = {{100, 64, 3}};
              }),
              HasSubstr("stages[0].buckets[0]: expected multiples of 16, found 100x64"));
  EXPECT_THAT(problem([](TrainConfig& c) { c.trained = TrainedPart::kLora; }), HasSubstr("start_from"));
  EXPECT_THAT(problem([](TrainConfig& c) { c.validation.every = 5; }),
              HasSubstr("validation.data is missing"));
  EXPECT_THAT(problem([](TrainConfig& c) { c.samples.every = 5; }), HasSubstr("samples.scripts"));
  EXPECT_THAT(problem([](TrainConfig& c) { c.data.kind = DataKind::kFolder, c.data.folder = ""; }),
              HasSubstr("data.folder is missing"));
  config_.data.kind = DataKind::kFolder;
  config_.data.folder = "/nowhere";
  EXPECT_EQ(error_of([&] { check_paths(config_, "run.yaml"); }),
            "run.yaml: data.folder: no such folder: '/nowhere'");
  config_.data = toy(1, 1);
  EXPECT_THAT(problem([](TrainConfig& c) { c.ema = 2; }), HasSubstr("ema must lie between 0 and 1, found 2"));
  EXPECT_THAT(error_of([] { parse_config<TrainConfig>("stages: [{step: 3}]", "run.yaml"); }),
              HasSubstr("run.yaml:1:11: unknown key 'step', did you mean 'steps'?"));
}

}  // namespace
}  // namespace moga
