// From a script to a film and back, with a tiny untrained model: the mechanics, not the beauty.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <filesystem>

#include "base/atomic_file.h"
#include "base/error.h"
#include "media/picture.h"
#include "media/video.h"
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

const torch::Device kCpu(torch::kCPU);

class Film : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    std::string name = (fs::temp_directory_path() / "moga_film_XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    path_ = name;
    make_tiny_model(path_ / "model");
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
    return decode_film(sample_film(generate, kCpu), decode, kCpu);
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
  const torch::Tensor first = sample_film(request("a.mp4"), kCpu).latent_ZFHW;
  EXPECT_TRUE(sample_film(request("b.mp4"), kCpu).latent_ZFHW.equal(first));
  GenerateRequest other = request("c.mp4");
  other.seed = 4;
  EXPECT_FALSE(sample_film(other, kCpu).latent_ZFHW.equal(first));
}

TEST_F(Film, TextAndItsShotMatter) {
  const torch::Tensor first = sample_film(request("a.mp4"), kCpu).latent_ZFHW;
  GenerateRequest changed = request("d.mp4");
  changed.script.shots[1].text = "Mia stands on the beach.";
  EXPECT_FALSE(sample_film(changed, kCpu).latent_ZFHW.equal(first));
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
  FilmLatents film = sample_film(request("unfinished.mp4"), kCpu);
  film.steps_done = 1;
  DecodeRequest decode;
  decode.model = path_ / "model";
  decode.output = path_ / "unfinished.mp4";
  EXPECT_THAT(message_of([&] { decode_film(film, decode, kCpu); }), HasSubstr("--resume"));
  EXPECT_FALSE(fs::exists(decode.output));
}

TEST_F(Film, BadRequestsFailBeforeWorkStarts) {
  GenerateRequest bad = request("bad.mp4");
  bad.steps = 0;
  EXPECT_THAT(message_of([&] { sample_film(bad, kCpu); }), HasSubstr("denoising steps"));
  bad = request("bad.mp4");
  bad.output = "/proc/none/film.mp4";
  EXPECT_THAT(message_of([&] { sample_film(bad, kCpu); }), HasSubstr("cannot"));
  bad = request("bad.mp4");
  bad.model = path_ / "nowhere";
  EXPECT_THAT(message_of([&] { sample_film(bad, kCpu); }), HasSubstr("no model at"));
  fs::create_directories(path_ / "incomplete");
  fs::copy_file(path_ / "model" / "moga.json", path_ / "incomplete" / "moga.json",
                fs::copy_options::overwrite_existing);
  bad.model = path_ / "incomplete";
  EXPECT_THAT(message_of([&] { sample_film(bad, kCpu); }),
              HasSubstr("lacks the transformer, the vae"));
  EXPECT_FALSE(fs::exists(path_ / "bad.mp4"));
}

TEST_F(Film, DamagedModelFilesAreNamed) {
  fs::remove_all(path_ / "damaged");
  fs::copy(path_ / "model", path_ / "damaged");
  fs::resize_file(path_ / "damaged" / "dit.safetensors", 1000);
  GenerateRequest bad = request("bad.mp4");
  bad.model = path_ / "damaged";
  EXPECT_THAT(message_of([&] { sample_film(bad, kCpu); }), HasSubstr("dit.safetensors"));
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
  const ReconstructResult result = reconstruct_clip(reconstruct, kCpu);
  EXPECT_EQ(result.frames, 21);
  EXPECT_GT(result.psnr_db, 3);  // untrained weights
  EXPECT_EQ(probe_video(path_ / "again.mp4").frames, 21);
  ClipGroupsRequest groups;
  groups.clip = clip;
  groups.model = path_ / "model";
  groups.output = path_ / "clip_groups.mp4";
  groups.max_frames = 13;
  const ClipGroupsResult drawn = draw_clip_groups(groups, kCpu);
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
