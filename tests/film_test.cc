// From a script to a film and back, with a tiny untrained model: the mechanics, not the beauty.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <filesystem>

#include "base/atomic_file.h"
#include "base/error.h"
#include "distributed/device_test_util.h"
#include "media/frame_tensor.h"
#include "media/picture.h"
#include "media/video.h"
#include "model/prompt_embeddings.h"
#include "model/vae_tiling.h"
#include "pipeline/clips.h"
#include "pipeline/decode.h"
#include "pipeline/generate.h"
#include "training/tiny_model.h"

namespace moga {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr const char* kScript = R"(title: Two places
size: 64x48
fps: 8
seed: 3
shots:
  - {prompt: Mia stands in the meadow., frames: 9}
  - {prompt: Mia jumps in the snow., frames: 8}
)";

class Film : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    std::string name = (fs::temp_directory_path() / "moga_film_XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    path_ = name;
    make_tiny_model(path_ / "model");
    ASSERT_EQ(setenv("XDG_CACHE_HOME", (path_ / "cache").c_str(), 1), 0);
  }
  static void TearDownTestSuite() { fs::remove_all(path_); }

  static GenerateRequest request(const std::string& output) {
    GenerateRequest request;
    request.script = parse_script(kScript, "script");
    request.model = path_ / "model";
    request.output = path_ / output;
    request.steps = 4;
    return request;
  }
  static DecodedFilm make(const GenerateRequest& generate) {
    DecodeRequest decode;
    decode.model = generate.model;
    decode.output = generate.output;
    decode.groups = generate.groups;
    return decode_film(sample_film(generate, test_device()), decode, test_device());
  }
  static std::string message_of(const std::function<void()>& action) {
    try {
      action();
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }
  static int moga(const std::string& arguments) {
    const std::string command = "\"" MOGA_BINARY_DIR "/bin/moga\" " + arguments + " > \"" +
                                (path_ / "out.txt").string() + "\" 2> \"" + (path_ / "err.txt").string() +
                                "\"";
    return WEXITSTATUS(std::system(command.c_str()));
  }
  static std::string errors() { return read_file(path_ / "err.txt"); }

  static fs::path path_;
};
fs::path Film::path_;

TEST_F(Film, HasItsFramesPicturesAndRecord) {
  GenerateRequest generate = request("film.mp4");
  generate.groups = true;
  const DecodedFilm film = make(generate);
  EXPECT_EQ(film.frames, 17);
  const VideoInfo info = probe_video(film.film);
  EXPECT_EQ(info.width, 64);
  EXPECT_EQ(info.height, 48);
  EXPECT_NEAR(info.fps, 8, 1e-9);
  EXPECT_EQ(info.codec, "h264");
  const auto comment = nlohmann::json::parse(info.comment);
  EXPECT_EQ(comment["seed"], 3);
  EXPECT_EQ(comment["settings"]["steps"], 4);
  EXPECT_EQ(parse_script(comment["script"], "comment").shots.size(), 2U);
  EXPECT_FALSE(read_image(path_ / "film.png").empty());
  EXPECT_EQ(film.groups_film, path_ / "groups.mp4");
  EXPECT_EQ(probe_video(path_ / "groups.mp4").frames, info.frames);
  EXPECT_FALSE(read_image(path_ / "groups.png").empty());
}

TEST_F(Film, IsReproducibleBitForBitAndDependsOnTheSeed) {
  const torch::Tensor first = sample_film(request("a.mp4"), test_device()).latent_ZFHW;
  EXPECT_TRUE(sample_film(request("b.mp4"), test_device()).latent_ZFHW.equal(first));
  GenerateRequest other = request("c.mp4");
  other.seed = 4;
  EXPECT_FALSE(sample_film(other, test_device()).latent_ZFHW.equal(first));
}

TEST_F(Film, TextAndItsShotMatter) {
  const torch::Tensor first = sample_film(request("a.mp4"), test_device()).latent_ZFHW;
  GenerateRequest changed = request("d.mp4");
  changed.script.shots[1].text = "Mia stands on the beach.";
  EXPECT_FALSE(sample_film(changed, test_device()).latent_ZFHW.equal(first));
}

TEST_F(Film, SolversAreChosenByRequestThenScriptThenModel) {
  const ModelFolder model(path_ / "model");
  GenerateRequest generate = request("solver.mp4");
  EXPECT_EQ(decide_settings(generate, model).solver, "euler");
  generate.script.sampling.solver = "dpmpp";
  EXPECT_EQ(decide_settings(generate, model).solver, "dpmpp");
  generate.solver = "unipc";
  EXPECT_EQ(decide_settings(generate, model).solver, "unipc");
  const torch::Tensor film = sample_film(generate, test_device()).latent_ZFHW;
  EXPECT_TRUE(film.isfinite().all().item<bool>());
  EXPECT_FALSE(film.equal(sample_film(request("euler.mp4"), test_device()).latent_ZFHW));
  generate.solver = "unipcc";
  EXPECT_THAT(message_of([&] { decide_settings(generate, model); }), HasSubstr("euler, unipc, dpmpp"));
}

// An unfinished run of a multistep solver carries the solver's memory: it goes on to the same bits.
TEST_F(Film, ResumedMultistepSolversGiveTheSameBits) {
  for (const std::string solver : {"unipc", "dpmpp"}) {
    GenerateRequest generate = request(solver + ".mp4");
    generate.solver = solver;
    generate.steps = 6;
    const torch::Tensor whole = sample_film(generate, test_device()).latent_ZFHW;
    generate.checkpoint_every = 4;
    const fs::path saved = latents_path(generate.output);
    fs::remove(saved);
    // A folder for the preview of step 5 that cannot be made stops the run after the checkpoint of step 4.
    generate.preview = path_ / (solver + "_preview");
    generate.preview_every = 5;
    fs::create_directories(generate.preview / "step_005.png");
    EXPECT_NE(message_of([&] { sample_film(generate, test_device()); }), "no error");
    ASSERT_TRUE(fs::exists(saved));
    EXPECT_EQ(read_film_latents(saved).steps_done, 4);
    EXPECT_FALSE(read_film_latents(saved).solver_memory.empty());
    generate.preview.clear();
    generate.resume = true;
    EXPECT_TRUE(sample_film(generate, test_device()).latent_ZFHW.equal(whole)) << solver;
    EXPECT_TRUE(read_film_latents(saved).solver_memory.empty());
  }
}

TEST_F(Film, GuidanceInOneBatchIsTheSameButForRounding) {
  GenerateRequest generate = request("batched.mp4");
  generate.groups = true;
  const FilmLatents separate = sample_film(generate, test_device());
  generate.passes = GuidancePasses::kBatched;
  const FilmLatents batched = sample_film(generate, test_device());
  EXPECT_TRUE(batched.latent_ZFHW.allclose(separate.latent_ZFHW, 1e-3, 1e-3));
  EXPECT_EQ(batched.groups_NFYX.sizes(), separate.groups_NFYX.sizes());
  EXPECT_GT(batched.groups_NFYX.eq(separate.groups_NFYX).to(torch::kFloat32).mean().item<float>(), 0.98F);
}

TEST_F(Film, AbsentNegativePromptIsTheModels) {
  const ModelFolder tiny(path_ / "model");
  ModelConfig config = tiny.config();
  config.sampling.negative = "blurry";
  fs::remove_all(path_ / "negative");
  fs::copy(path_ / "model", path_ / "negative");
  ModelFolder model(path_ / "negative");
  model.update_config(config);
  GenerateRequest generate = request("negative.mp4");
  EXPECT_EQ(decide_settings(generate, model).negative, "blurry");
  generate.script.negative = "";
  EXPECT_EQ(decide_settings(generate, model).negative, "");
  EXPECT_EQ(decide_settings(request("negative.mp4"), tiny).negative, "");
  EXPECT_THAT(model_config("wan-1.3b").sampling.negative, HasSubstr("blurry"));
  EXPECT_EQ(model_config("wan-14b").sampling.solver, "unipc");
}

TEST_F(Film, GivenFirstFrameIsHeldAndTheRestFollowsIt) {
  cv::Mat picture(96, 160, CV_8UC3, cv::Scalar(200, 40, 90));
  write_png(path_ / "first.png", picture);
  write_file_atomic(path_ / "first.yaml", std::string("first_frame: first.png\n") + kScript);
  for (const std::string solver : {"euler", "unipc"}) {
    GenerateRequest generate = request("first_" + solver + ".mp4");
    generate.solver = solver;
    const torch::Tensor without = sample_film(generate, test_device()).latent_ZFHW;
    generate.script = load_script(path_ / "first.yaml");
    const FilmLatents film = sample_film(generate, test_device());
    WanVae vae = ModelFolder(path_ / "model").load_vae(test_device());
    const torch::NoGradGuard guard;
    const torch::Tensor pixels = (torch::tensor({200.0F, 40.0F, 90.0F}) / 127.5 - 1).view({1, 3, 1, 1, 1});
    const torch::Tensor held = vae->encode(pixels.expand({1, 3, 1, 48, 64}).to(test_device())).cpu();
    EXPECT_TRUE(film.latent_ZFHW.slice(1, 0, 1).allclose(held[0], 1e-5, 1e-5)) << solver;
    EXPECT_FALSE(film.latent_ZFHW.slice(1, 1).allclose(without.slice(1, 1), 1e-3, 1e-3)) << solver;
    EXPECT_FALSE(film.settings.first_frame.empty());
    // Another picture under the same name is not the same film.
    generate.resume = true;
    write_png(path_ / "first.png", picture * 0.5);
    EXPECT_THAT(message_of([&] { sample_film(generate, test_device()); }), HasSubstr("--resume"));
    write_png(path_ / "first.png", picture);
    EXPECT_TRUE(sample_film(generate, test_device()).latent_ZFHW.equal(film.latent_ZFHW));
  }
}

// The encoder is loaded for the first text that is not known, once, and not at all if all are; it is gone
// when the embeddings are there.
TEST_F(Film, PromptEmbeddingsAreKeptByContent) {
  const ModelFolder model(path_ / "model");
  int loads = 0;
  std::weak_ptr<UmT5Impl> alive;
  TextSource source;
  source.fingerprint = model.text_fingerprint();
  source.text_len = model.config().dit.text_len;
  source.load_tokenizer = [&] { return model.load_tokenizer(); };
  source.load_encoder = [&] {
    ++loads;
    UmT5 encoder = model.load_text(test_device());
    alive = encoder.ptr();
    return encoder;
  };
  const torch::NoGradGuard guard;
  const fs::path cache = path_ / "prompts";
  const std::vector<std::string> texts = {"Mia stands.", "Mia jumps.", "Mia stands.", ""};
  const auto first = embed_texts(source, texts, cache, test_device());
  EXPECT_EQ(loads, 1);
  EXPECT_TRUE(alive.expired());
  const auto second = embed_texts(source, texts, cache, test_device());
  EXPECT_EQ(loads, 1);
  ASSERT_EQ(second.size(), texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    EXPECT_TRUE(second[i].rows_RT.equal(first[i].rows_RT));
  }
  EXPECT_TRUE(first[0].rows_RT.equal(first[2].rows_RT));
  EXPECT_FALSE(first[0].rows_RT.sizes() == first[1].rows_RT.sizes() &&
               first[0].rows_RT.equal(first[1].rows_RT));
  // Alone, a text is what it is among others.
  EXPECT_TRUE(embed_texts(source, {texts[1]}, "", test_device())[0].rows_RT.equal(first[1].rows_RT));
  EXPECT_EQ(loads, 2);

  TextSource other = source;  // another encoder, another length: other embeddings
  other.fingerprint = "other";
  embed_texts(other, {texts[0]}, cache, test_device());
  EXPECT_EQ(loads, 3);
  other = source;
  other.text_len = 2;
  EXPECT_TRUE(embed_texts(other, {texts[0]}, cache, test_device())[0].truncated);
  EXPECT_TRUE(embed_texts(other, {texts[0]}, cache, test_device())[0].truncated);
  EXPECT_EQ(loads, 4);

  for (const auto& entry : fs::directory_iterator(cache)) {
    fs::resize_file(entry.path(), 20);
  }
  EXPECT_TRUE(embed_texts(source, {texts[0]}, cache, test_device())[0].rows_RT.equal(first[0].rows_RT));
  EXPECT_EQ(loads, 5);
  EXPECT_EQ(embed_texts(source, {"Mia sits."}, "/proc/none", test_device()).size(), 1U);
}

TEST_F(Film, DecodesInTiles) {
  GenerateRequest generate = request("tiled.mp4");
  generate.script =
      parse_script("title: t\nsize: 128x96\nfps: 8\nshots: [{prompt: Mia, frames: 5}]", "script");
  const FilmLatents latents = sample_film(generate, test_device());
  DecodeRequest decode;
  decode.model = path_ / "model";
  decode.output = generate.output;
  decode.vae_tile = 64;
  EXPECT_EQ(decode_film(latents, decode, test_device()).frames, 5);
  decode.vae_tile = 50;
  EXPECT_THAT(message_of([&] { decode_film(latents, decode, test_device()); }), HasSubstr("divisible by 32"));
}

// A run that is killed outright goes on with --resume to the very same film.
TEST_F(Film, KilledRunsResumeToTheSameFilm) {
  write_file_atomic(path_ / "long.yaml", kScript);
  const auto command = [&](const std::string& name, const std::string& more) {
    return fmt::format("generate \"{}\" -o \"{}\" --model \"{}\" --steps 150 --checkpoint 1 {}",
                       (path_ / "long.yaml").string(), (path_ / name).string(), (path_ / "model").string(),
                       more);
  };
  ASSERT_EQ(moga(command("whole.mp4", "")), 0) << errors();
  const std::string latents = latents_path(path_ / "killed.mp4").string();
  const std::string kill = fmt::format(
      "\"{}/bin/moga\" {} 2> /dev/null & p=$!; n=0; while [ ! -e \"{}\" ] && [ $n -lt 3000 ]; do sleep 0.01; "
      "n=$((n + 1)); done; kill -9 $p; wait $p 2> /dev/null; true",
      MOGA_BINARY_DIR, command("killed.mp4", ""), latents);
  ASSERT_EQ(std::system(kill.c_str()), 0);
  ASSERT_TRUE(fs::exists(latents));
  EXPECT_LT(read_film_latents(latents).steps_done, 150);
  EXPECT_FALSE(fs::exists(path_ / "killed.mp4"));
  ASSERT_EQ(moga(command("killed.mp4", "--resume")), 0) << errors();
  EXPECT_EQ(read_file(path_ / "killed.mp4"), read_file(path_ / "whole.mp4"));
}

TEST_F(Film, UnfinishedLatentsAreRefusedAndNothingIsLeft) {
  FilmLatents film = sample_film(request("unfinished.mp4"), test_device());
  film.steps_done = 1;
  DecodeRequest decode;
  decode.model = path_ / "model";
  decode.output = path_ / "unfinished.mp4";
  EXPECT_THAT(message_of([&] { decode_film(film, decode, test_device()); }), HasSubstr("--resume"));
  EXPECT_FALSE(fs::exists(decode.output));
}

TEST_F(Film, BadRequestsFailBeforeWorkStarts) {
  GenerateRequest bad = request("bad.mp4");
  bad.steps = 0;
  EXPECT_THAT(message_of([&] { sample_film(bad, test_device()); }), HasSubstr("denoising steps"));
  bad = request("bad.mp4");
  bad.output = "/proc/none/film.mp4";
  EXPECT_THAT(message_of([&] { sample_film(bad, test_device()); }), HasSubstr("cannot"));
  bad = request("bad.mp4");
  bad.model = path_ / "nowhere";
  EXPECT_THAT(message_of([&] { sample_film(bad, test_device()); }), HasSubstr("no model at"));
  fs::create_directories(path_ / "incomplete");
  fs::copy_file(path_ / "model" / "moga.json", path_ / "incomplete" / "moga.json",
                fs::copy_options::overwrite_existing);
  bad.model = path_ / "incomplete";
  EXPECT_THAT(message_of([&] { sample_film(bad, test_device()); }),
              HasSubstr("lacks the transformer, the vae"));
  EXPECT_FALSE(fs::exists(path_ / "bad.mp4"));
}

TEST_F(Film, DamagedModelFilesAreNamed) {
  fs::remove_all(path_ / "damaged");
  fs::copy(path_ / "model", path_ / "damaged");
  fs::resize_file(path_ / "damaged" / "dit.safetensors", 1000);
  GenerateRequest bad = request("bad.mp4");
  bad.model = path_ / "damaged";
  EXPECT_THAT(message_of([&] { sample_film(bad, test_device()); }), HasSubstr("dit.safetensors"));
}

TEST_F(Film, CommandLineMakesInfoesAndDecodes) {
  write_file_atomic(path_ / "script.yaml", kScript);
  const std::string model = " --model \"" + (path_ / "model").string() + "\"";
  const std::string film = "\"" + (path_ / "cli.mp4").string() + "\"";
  ASSERT_EQ(moga("generate \"" + (path_ / "script.yaml").string() + "\" -o " + film + model +
                 " --steps 2 --groups --keep-latents"),
            0)
      << errors();
  EXPECT_TRUE(fs::exists(path_ / "cli.groups.mp4"));
  EXPECT_FALSE(fs::is_empty(path_ / "cache" / "moga" / "prompts"));
  EXPECT_EQ(moga("info " + film), 0) << errors();
  EXPECT_THAT(read_file(path_ / "out.txt"), HasSubstr("Mia jumps in the snow."));
  const std::string first = read_file(path_ / "cli.mp4");
  fs::remove(path_ / "cli.mp4");
  ASSERT_EQ(moga("decode \"" + latents_path(path_ / "cli.mp4").string() + "\" -o " + film), 0) << errors();
  EXPECT_EQ(read_file(path_ / "cli.mp4"), first);
  // Continuing a finished run decodes the same latents again; another seed is refused.
  EXPECT_EQ(moga("generate \"" + (path_ / "script.yaml").string() + "\" -o " + film + model +
                 " --steps 2 --resume"),
            0);
  EXPECT_FALSE(fs::exists(latents_path(path_ / "cli.mp4")));
  EXPECT_EQ(moga("generate nothing.yaml -o " + film + model), 2);
  EXPECT_THAT(errors(), HasSubstr("nothing.yaml"));
  EXPECT_EQ(moga("generate \"" + (path_ / "script.yaml").string() + "\" -o " + film + ".avi" + model), 2);
}

// Prints the figures that docs/generate.md quotes.
TEST_F(Film, SeamsOfTilesAreFaintOnRealPictures) {
  const char* given = std::getenv("MOGA_CLIPS");
  const fs::path clip =
      fs::path(given != nullptr ? given : MOGA_SOURCE_DIR "/../shared/clips") / "clip_a.mp4";
  const fs::path toy = MOGA_SOURCE_DIR "/assets/toy";
  if (!fs::exists(clip) || !fs::exists(toy / "vae.safetensors")) {
    GTEST_SKIP() << "no clip at " << clip << " or no trained VAE in " << toy;
  }
  const torch::NoGradGuard guard;
  VideoReader reader(clip);
  std::vector<torch::Tensor> frames;
  for (int i = 0; i < 5; ++i) {
    frames.push_back(bytes_to_unit(image_to_tensor(fill_size(reader.next().value(), 512, 320))));
  }
  WanVae vae = ModelFolder(toy).load_vae(test_device());
  const torch::Tensor z = vae->encode(torch::stack(frames, 1).unsqueeze(0));
  const torch::Tensor whole = vae->decode(z).clamp(-1, 1);
  const auto psnr = [&](const VaeTiling& tiling) {
    VaeTiledDecodeStream stream(vae, tiling);
    const torch::Tensor tiled = stream.next(z).clamp(-1, 1);
    const double square = (tiled - whole).square().mean().item<double>();
    const double worst = (tiled - whole).abs().max().item<double>();
    const double result = 10 * std::log10(4 / square);
    fmt::print(
        "tiles of {} pixels sharing {}: {:.1f} dB to the whole picture, largest difference {:.3f} of 2\n",
        tiling.tile * 8, tiling.overlap * 8, result, worst);
    return result;
  };
  const double hard = psnr({32, 1});
  const double shared = psnr({32, 8});
  psnr({16, 4});
  EXPECT_GT(shared, hard);
  EXPECT_GT(shared, 28);
}

TEST_F(Film, RealClipsAreReconstructedAndGrouped) {
  const char* given = std::getenv("MOGA_CLIPS");
  const fs::path clip =
      fs::path(given != nullptr ? given : MOGA_SOURCE_DIR "/../shared/clips") / "clip_a.mp4";
  if (!fs::exists(clip)) {
    GTEST_SKIP() << "no clip at " << clip;
  }
  ReconstructRequest reconstruct;
  reconstruct.clip = clip;
  reconstruct.model = path_ / "model";
  reconstruct.width = 64;
  reconstruct.height = 48;
  reconstruct.max_frames = 21;
  reconstruct.output = path_ / "again.mp4";
  const ReconstructResult result = reconstruct_clip(reconstruct, test_device());
  EXPECT_EQ(result.frames, 21);
  EXPECT_GT(result.psnr_db, 3);  // untrained weights
  EXPECT_EQ(probe_video(path_ / "again.mp4").frames, 21);
  ClipGroupsRequest groups;
  groups.clip = clip;
  groups.model = path_ / "model";
  groups.output = path_ / "clip_groups.mp4";
  groups.max_frames = 13;
  const ClipGroupsResult drawn = draw_clip_groups(groups, test_device());
  EXPECT_EQ(drawn.frames, 13);
  ASSERT_EQ(drawn.occupancy.size(), 3U);
  EXPECT_NEAR(drawn.occupancy[0] + drawn.occupancy[1] + drawn.occupancy[2], 1, 1e-5);
  EXPECT_FALSE(read_image(path_ / "clip_groups.png").empty());
}

TEST(FilmNames, GroupPicturesStandBesideTheFilm) {
  EXPECT_EQ(groups_path("a/film.mp4"), fs::path("a/groups.mp4"));
  EXPECT_EQ(groups_path("a/film_2.mp4"), fs::path("a/groups_2.mp4"));
  EXPECT_EQ(groups_path("dog.mp4"), fs::path("dog.groups.mp4"));
  EXPECT_EQ(latent_of_frame(0), 0);
  EXPECT_EQ(latent_of_frame(4), 1);
  EXPECT_EQ(latent_of_frame(5), 2);
}

}  // namespace
}  // namespace moga
