// moga prepare from raw videos to a training run, as a user types it; killed at any moment; captioned by a
// model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <map>
#include <opencv2/imgproc.hpp>
#include <random>
#include <thread>

#include "base/atomic_file.h"
#include "base/error.h"
#include "data/toy_world.h"
#include "media/video.h"
#include "prepare/manifest.h"
#include "prepare/prepare.h"
#include "prepare/test_chat_server.h"
#include "script/film_script.h"
#include "training/tiny_model.h"

namespace moga {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

// For toy films: small, drawn, without grain, few frames a second.
constexpr const char* kToyConfig = R"(
film: {fps: 8, sizes: [64x48], scene_similarity: 0, min_shot_seconds: 0.9}
text: {enabled: false}
filter: {video: [{score: seconds, min: 1}], shot: []}
)";

class Prepare : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "moga_prepare_XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    path_ = name;
    write_file_atomic(path_ / "toy.yaml", kToyConfig);
  }
  void TearDown() override { fs::remove_all(path_); }

  std::string quoted(const fs::path& name) const { return "\"" + (path_ / name).string() + "\""; }
  int moga(const std::string& arguments) const {
    const std::string command = "\"" MOGA_BINARY_DIR "/bin/moga\" " + arguments + " > " + quoted("out.txt") +
                                " 2> " + quoted("err.txt");
    return WEXITSTATUS(std::system(command.c_str()));
  }
  std::string errors() const { return read_file(path_ / "err.txt"); }
  std::string output() const { return read_file(path_ / "out.txt"); }

  // Toy films as raw videos: shots of at least two seconds. Returns the cuts.
  std::vector<int64_t> make_raw(const std::string& name, uint64_t seed, int64_t frames) const {
    ToyFilmSettings settings;
    settings.min_frames = frames;
    settings.max_frames = frames;
    settings.min_shots = 3;
    settings.max_shots = 4;
    settings.min_shot_frames = 16;
    const ToyFilm toy = make_toy_film(seed, settings);
    VideoSettings video;
    video.width = settings.width;
    video.height = settings.height;
    video.fps = settings.fps;
    VideoWriter writer(path_ / "raw" / name, video);
    for (int64_t i = 0; i < toy.total_frames(); ++i) {
      writer.write(draw_toy_frame(toy, i, settings));
    }
    writer.finish();
    std::vector<int64_t> cuts;
    for (const ToyShot& shot : toy.shots) {
      if (shot.first_frame > 0) {
        cuts.push_back(shot.first_frame);
      }
    }
    return cuts;
  }

  std::vector<VideoRecord> manifest(const std::string& out, const std::string& stage) const {
    ManifestReader reader(path_ / out / "manifests" / (stage + ".jsonl"));
    std::vector<VideoRecord> records;
    while (auto record = reader.next()) {
      records.push_back(std::move(*record));
    }
    return records;
  }

  // Every result file with its content.
  std::map<std::string, std::string> results(const std::string& out) const {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(path_ / out)) {
      if (entry.is_regular_file() && entry.path().filename() != ".lock") {
        files[fs::relative(entry.path(), path_ / out).string()] = read_file(entry.path());
      }
    }
    return files;
  }

  fs::path path_;
};

TEST_F(Prepare, ToyVideosComeBackAsFilmsWithTheirCuts) {
  const auto cuts = make_raw("a.mp4", 11, 97);
  make_raw("b.mp4", 12, 81);
  fs::copy_file(path_ / "raw" / "a.mp4", path_ / "raw" / "copy.mp4");
  write_file_atomic(path_ / "raw" / "broken.mp4", std::string(5000, 'x'));
  write_file_atomic(path_ / "raw" / "a.txt",
                    cuts.size() == 2 ? "one\ntwo\nthree\n" : "one\ntwo\nthree\nfour\n");
  ASSERT_EQ(moga("prepare " + quoted("raw") + " -o " + quoted("out") + " --config " + quoted("toy.yaml")), 0)
      << errors();
  EXPECT_THAT(output(), HasSubstr("2 of 4 videos kept"));
  const auto videos = manifest("out", "write");
  ASSERT_EQ(videos.size(), 4U);
  ASSERT_FALSE(videos[0].dropped);
  std::vector<int64_t> found;
  for (const BoundaryRecord& boundary : videos[0].boundaries) {
    found.push_back(boundary.frame);
    EXPECT_EQ(boundary.kind, "cut");
  }
  EXPECT_EQ(found, cuts);
  EXPECT_THAT(videos[2].dropped.value_or(Drop()).cause, "unusable");
  EXPECT_THAT(videos[3].dropped.value_or(Drop()).detail, HasSubstr("same content as"));
  ASSERT_EQ(videos[0].films.size(), 1U);
  const FilmRecord& film = videos[0].films[0];
  const FilmScript script = load_script(path_ / "out" / "films" / (film.name + ".yaml"));
  EXPECT_EQ(script.total_frames(), film.frames);
  EXPECT_EQ(script.shots[1].text, "two");
  EXPECT_EQ(script.shots[1].first_frame % 4, 1);
  const VideoInfo info = probe_video(path_ / "out" / "films" / (film.name + ".mp4"));
  EXPECT_EQ(info.frames, film.frames);
  EXPECT_EQ(info.width, 64);
  EXPECT_NEAR(info.fps, 8, 1e-6);
  // The exports speak of the same film.
  const std::string line = read_file(path_ / "out" / "exports" / "shots.jsonl");
  const auto json = nlohmann::json::parse(line.substr(0, line.find('\n')));
  EXPECT_EQ(json["shot_captions"].size(), film.shots.size());
  EXPECT_EQ(json["shot_cut_frames"][0], film.shots[1].first_frame);
  EXPECT_TRUE(fs::exists(path_ / "out" / "exports" / json["video"].get<std::string>()));
  EXPECT_THAT(read_file(path_ / "out" / "exports" / "edl" / (film.name + ".edl")),
              HasSubstr("FROM CLIP NAME: a.mp4"));
  EXPECT_THAT(read_file(path_ / "out" / "report.html"), HasSubstr(videos[0].shots[0].thumbnails));
  EXPECT_TRUE(fs::exists(path_ / "out" / videos[0].shots[0].thumbnails));
  const auto report = nlohmann::json::parse(read_file(path_ / "out" / "report.json"));
  EXPECT_EQ(report["films"], 2);
  EXPECT_NEAR(report["hours_in"].get<double>() * 3600, (97 + 97 + 81) / 8.0,
              0.01);  // the copy counts as raw footage

  // A second run has nothing to do; a changed limit redoes the filter and keeps the decoding.
  ASSERT_EQ(moga("prepare " + quoted("raw") + " -o " + quoted("out") + " --config " + quoted("toy.yaml")), 0);
  EXPECT_THAT(errors(), HasSubstr("0 steps done"));
  write_file_atomic(path_ / "strict.yaml",
                    std::string(kToyConfig).replace(std::string(kToyConfig).find("min: 1}"), 7, "min: 11}"));
  ASSERT_EQ(moga("prepare " + quoted("raw") + " -o " + quoted("out") + " --config " + quoted("strict.yaml")),
            0);
  EXPECT_THAT(output(), HasSubstr("dropped by filter: 1 video (10.1 s) for 'seconds'"));
  EXPECT_FALSE(
      fs::exists(path_ / "out" / "films" / (videos[1].films[0].name + ".mp4")));  // no longer among the films
  EXPECT_TRUE(fs::exists(path_ / "out" / "films" / (film.name + ".mp4")));
}

TEST_F(Prepare, StagesCanBeRunAloneAndTheirManifestsEdited) {
  make_raw("a.mp4", 21, 97);
  const std::string common = " -o " + quoted("out") + " --config " + quoted("toy.yaml");
  ASSERT_EQ(moga("prepare " + quoted("raw") + common + " --until crop"), 0) << errors();
  EXPECT_FALSE(fs::exists(path_ / "out" / "films"));
  auto videos = manifest("out", "crop");
  videos[0].shots[0].caption = "said by hand";
  write_file_atomic(path_ / "out" / "manifests" / "crop.jsonl", record_to_line(videos[0]) + "\n");
  ASSERT_EQ(moga("prepare --from caption" + common), 0) << errors();
  EXPECT_EQ(manifest("out", "write")[0].shots[0].caption, "said by hand");
  ASSERT_EQ(moga("prepare --stage merge" + common), 0) << errors();
  EXPECT_EQ(manifest("out", "merge")[0].shots[0].caption, "said by hand");
  EXPECT_EQ(moga("prepare --from merge --until split" + common), 2);
  EXPECT_EQ(moga("prepare --stage merg" + common), 2);
  EXPECT_THAT(errors(), HasSubstr("did you mean 'merge'"));
  EXPECT_EQ(moga("prepare " + quoted("raw") + " --from merge" + common), 2);
  EXPECT_EQ(moga("prepare --from merge -o " + quoted("empty")), 2);
  EXPECT_THAT(errors(), HasSubstr("run the stages before this one first"));
  EXPECT_EQ(moga("prepare " + quoted("nowhere") + common), 2);
  EXPECT_EQ(moga("prepare --explain"), 0);
  EXPECT_THAT(output(), HasSubstr("film.max_seconds = 65"));
}

// Killed again and again, at moments that nobody chose: the end is that of a run that was left alone.
TEST_F(Prepare, KilledRunsEndLikeThoseLeftAlone) {
  for (int i = 0; i < 3; ++i) {
    make_raw(fmt::format("{}.mp4", i), 31 + static_cast<uint64_t>(i), 65 + 16 * i);
  }
  const std::string common = quoted("raw") + " --jobs 2 --config " + quoted("toy.yaml") + " -o ";
  const auto start = std::chrono::steady_clock::now();
  ASSERT_EQ(moga("prepare " + common + quoted("whole")), 0) << errors();
  const double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::mt19937 random(7);
  int kills = 0;
  for (int attempt = 0; attempt < 40; ++attempt) {
    const pid_t child = ::fork();
    if (child == 0) {
      const std::string command =
          "exec \"" MOGA_BINARY_DIR "/bin/moga\" prepare " + common + quoted("killed") + " > /dev/null 2>&1";
      ::execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
      ::_exit(127);
    }
    // Often early, where most of the steps are; later attempts live longer, so that the end is reached.
    const double life =
        took * (0.1 + 0.05 * attempt) * std::uniform_real_distribution<double>(0.2, 1)(random);
    const auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(life);
    int status = 0;
    pid_t ended = 0;
    while (ended == 0 && std::chrono::steady_clock::now() < until) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      ended = ::waitpid(child, &status, WNOHANG);
    }
    if (ended == child) {
      ASSERT_EQ(status, 0);
      break;
    }
    ::kill(child, SIGKILL);
    ::waitpid(child, &status, 0);
    ++kills;
  }
  EXPECT_GE(kills, 3);
  ASSERT_EQ(moga("prepare " + common + quoted("killed")), 0) << errors();  // in case every attempt was killed
  const auto whole = results("whole");
  const auto killed = results("killed");
  for (const auto& [file, content] : whole) {
    ASSERT_EQ(killed.count(file), 1U) << file;
    EXPECT_TRUE(killed.at(file) == content) << file;
  }
  EXPECT_EQ(killed.size(), whole.size());  // and nothing half-written is left
}

TEST_F(Prepare, TwoRunsAtATimeAreRefused) {
  make_raw("a.mp4", 41, 65);
  PrepareRequest request;
  request.inputs = {path_ / "raw"};
  request.out = path_ / "out";
  fs::create_directories(path_ / "out");
  const std::string hold = "flock " + quoted("out/.lock") + " sleep 2 &";
  ASSERT_EQ(std::system(hold.c_str()), 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_THROW(run_prepare(request), Error);
}

// The endpoint fails for one shot in the first run, and is asked again for that one alone in the second.
TEST_F(Prepare, CaptionsComeFromAModelOnceEach) {
  make_raw("a.mp4", 51, 97);
  std::atomic<bool> refuse = true;
  const TestChatServer server([&](int, const std::string&, const std::string& body) {
    if (body.find("shot 2 of") != std::string::npos && refuse) {
      return ChatReply{500, "no", "", 0, false};
    }
    const bool film = body.find("image_url") == std::string::npos;
    return ChatReply{200, chat_json(film ? "a whole film" : "a shot"), "", 0, false};
  });
  PrepareRequest request;
  request.inputs = {path_ / "raw"};
  request.out = path_ / "out";
  request.config = parse_config<PrepareConfig>(kToyConfig, "toy");
  CaptionConfig& caption = request.config.caption;
  caption.endpoint = server.url();
  caption.model = "eye";
  caption.prompt = "shot {shot} of {shots}, {seconds} s";
  caption.film_prompt = "{captions}";
  caption.retries = 1;
  caption.backoff_seconds = 0.01;
  caption.price_in = 2;
  caption.price_out = 10;
  run_prepare(request);
  VideoRecord video = manifest("out", "write").at(0);
  ASSERT_GE(video.shots.size(), 3U);
  ASSERT_TRUE(video.shots[1].dropped);
  EXPECT_EQ(video.shots[1].dropped->cause, "caption");
  EXPECT_EQ(video.caption_costs->failures, 1);

  refuse = false;
  const int before = server.requests();
  run_prepare(request);
  video = manifest("out", "write").at(0);
  EXPECT_FALSE(video.shots[1].dropped);
  EXPECT_EQ(server.requests() - before, 2);  // the shot, and the film that it made possible
  ASSERT_EQ(video.films.size(), 1U);
  EXPECT_EQ(video.films[0].caption, "a whole film");
  const auto requests = static_cast<int64_t>(video.shots.size()) + 1;
  EXPECT_EQ(video.caption_costs->requests, requests);
  EXPECT_NEAR(video.caption_costs->cost, static_cast<double>(requests) * (100 * 2 + 10 * 10) / 1e6, 1e-12);
  const FilmScript script = load_script(path_ / "out" / "films" / (video.films[0].name + ".yaml"));
  EXPECT_EQ(script.global, "a whole film");
  EXPECT_EQ(script.shots[0].text, "a shot");

  const int after = server.requests();
  run_prepare(request);
  EXPECT_EQ(server.requests(), after);
}

TEST_F(Prepare, TrainingStartsOnFilmsAndOnLatents) {
  make_raw("a.mp4", 61, 97);
  make_tiny_model(path_ / "model");
  write_file_atomic(path_ / "both.yaml",
                    std::string(kToyConfig) + "write: {form: both, model: " + quoted("model") + "}\n");
  ASSERT_EQ(moga("prepare " + quoted("raw") + " -o " + quoted("out") + " --config " + quoted("both.yaml")), 0)
      << errors();
  for (const char* kind : {"folder", "latents"}) {
    const std::string folder = std::string(kind) == "folder" ? "films" : "latents";
    write_file_atomic(
        path_ / "train.yaml",
        fmt::format("kind: dit\nmodel: {0}\nwork: {1}\nstart_from: {0}\n"
                    "data: {{kind: {2}, folder: {3}}}\n"
                    "stages: [{{steps: 2, batch: 2, latent_frames: 9, warmup: 1}}]\n",
                    quoted("model"), quoted(std::string("work_") + kind), kind, quoted("out/" + folder)));
    EXPECT_EQ(moga("train " + quoted("train.yaml")), 0) << kind << errors();
    EXPECT_THAT(errors(), HasSubstr("has the trained dit")) << kind;
  }
}

// ---- real clips ----

fs::path real_clips() {
  const char* given = std::getenv("MOGA_CLIPS");
  return given != nullptr ? fs::path(given) : fs::path(MOGA_SOURCE_DIR "/../shared/clips");
}

// One long raw video: a title card, three clips of three shots each, a dissolve of 12 frames between the
// first two, another title before the third; all inside black borders, with a mark in a corner and subtitles
// in the second clip.
struct RawRealVideo {
  std::vector<int64_t> cuts;                        // hard cuts between the clips' own shots
  std::pair<int64_t, int64_t> dissolve;             // frames that show both clips
  std::vector<std::pair<int64_t, int64_t>> titles;  // frames
  int64_t frames = 0;
};

class RawRealWriter {
 public:
  static constexpr int kBorder = 80;
  RawRealWriter(const fs::path& file, const fs::path& clips) {
    VideoSettings settings;
    settings.width = 832;
    settings.height = 480 + 2 * kBorder;
    settings.fps = 16;
    writer_ = std::make_unique<VideoWriter>(file, settings);
    add_title("THE FIRST PART");
    const auto a = read(clips / "clip_a.mp4");
    const auto b = read(clips / "clip_b.mp4");
    const auto c = read(clips / "clip_c.mp4");
    add_cuts();
    for (size_t i = 0; i < a.size() - kDissolve; ++i) {
      add(a[i], "");
    }
    made.dissolve = {made.frames, made.frames + static_cast<int64_t>(kDissolve)};
    add_cuts();
    for (size_t i = 0; i < kDissolve; ++i) {
      cv::Mat mixed;
      const double share = (static_cast<double>(i) + 1) / (static_cast<double>(kDissolve) + 1);
      cv::addWeighted(b[i], share, a[a.size() - kDissolve + i], 1 - share, 0, mixed);
      add(mixed, "");
    }
    for (size_t i = kDissolve; i < b.size(); ++i) {
      add(b[i], i < 53    ? "Where have you been so long?"
                : i < 105 ? "I never left this house."
                          : "Then we must go now.");
    }
    add_title("THE SECOND PART");
    add_cuts();
    for (const cv::Mat& frame : c) {
      add(frame, "");
    }
    writer_->finish();
  }
  RawRealVideo made;

 private:
  static constexpr size_t kDissolve = 12;

  static std::vector<cv::Mat> read(const fs::path& clip) {
    std::vector<cv::Mat> frames;
    VideoReader reader(clip);
    while (auto frame = reader.next()) {
      frames.push_back(*frame);
    }
    return frames;
  }
  void add_cuts() {
    made.cuts.push_back(made.frames + 53);
    made.cuts.push_back(made.frames + 105);
  }
  void add(const cv::Mat& picture, const std::string& subtitle) {
    cv::Mat frame;
    cv::copyMakeBorder(picture, frame, kBorder, kBorder, 0, 0, cv::BORDER_CONSTANT, cv::Scalar(0, 0, 0));
    cv::putText(frame, "CHANNEL 7", {640, kBorder + 40}, cv::FONT_HERSHEY_DUPLEX, 1, {255, 255, 255}, 2,
                cv::LINE_AA);
    if (!subtitle.empty()) {
      for (const auto& [colour, width] :
           {std::pair{cv::Scalar(0, 0, 0), 6}, {cv::Scalar(255, 255, 255), 2}}) {
        cv::putText(frame, subtitle, {150, kBorder + 455}, cv::FONT_HERSHEY_DUPLEX, 1.1, colour, width,
                    cv::LINE_AA);
      }
    }
    writer_->write(frame);
    ++made.frames;
  }
  void add_title(const std::string& text) {
    cv::Mat card(480, 832, CV_8UC3, cv::Scalar(30, 34, 60));
    cv::putText(card, text, {180, 250}, cv::FONT_HERSHEY_DUPLEX, 1.8, {230, 230, 200}, 3, cv::LINE_AA);
    made.titles.emplace_back(made.frames, made.frames + 32);
    for (int i = 0; i < 32; ++i) {
      add(card, "");
    }
  }

  std::unique_ptr<VideoWriter> writer_;
};

TEST_F(Prepare, RealClipsComeBackWithTheirCutsAndWithoutWhatWasPutOnThem) {
  if (!fs::exists(real_clips() / "clip_a.mp4")) {
    GTEST_SKIP() << "no real clips at " << real_clips();
  }
  fs::create_directories(path_ / "raw");
  const RawRealVideo made = RawRealWriter(path_ / "raw" / "long.mp4", real_clips()).made;
  ASSERT_EQ(moga("prepare " + quoted("raw") + " -o " + quoted("out")), 0) << errors();
  const VideoRecord video = manifest("out", "write").at(0);
  ASSERT_FALSE(video.dropped) << video.dropped->detail;

  // The picture inside the borders.
  EXPECT_NEAR(static_cast<double>(video.content->y), RawRealWriter::kBorder, 4);
  EXPECT_NEAR(static_cast<double>(video.content->height), 480, 8);

  // Every cut within one frame, the dissolve as a transition, and the titles' ends; nothing else.
  std::vector<int64_t> expected = made.cuts;
  for (const auto& [begin, end] : made.titles) {
    if (begin > 0) {
      expected.push_back(begin);
    }
    expected.push_back(end);
  }
  for (const int64_t cut : expected) {
    EXPECT_TRUE(std::any_of(video.boundaries.begin(), video.boundaries.end(), [&](const BoundaryRecord& b) {
      return std::abs(b.frame - cut) <= 1 && !b.overlapped;
    })) << cut;
  }
  const auto [from, to] = made.dissolve;
  EXPECT_TRUE(
      std::any_of(video.boundaries.begin(), video.boundaries.end(),
                  [&, f = from, t = to](const auto& b) { return b.overlapped && b.begin < t && b.end > f; }));
  EXPECT_EQ(video.boundaries.size(), expected.size() + 1);

  // Films of several shots, none of which shows a title or the dissolve, cropped clear of borders, mark and
  // subtitles.
  int64_t shots = 0;
  ASSERT_FALSE(video.films.empty());
  for (const FilmRecord& film : video.films) {
    EXPECT_GE(film.shots.size(), 2U);
    shots += static_cast<int64_t>(film.shots.size());
    for (const FilmShot& part : film.shots) {
      const ShotRecord& shot = video.shots[static_cast<size_t>(part.shot)];
      for (const auto& [begin, end] : made.titles) {
        EXPECT_TRUE(shot.end_frame <= begin + 1 || shot.begin_frame >= end - 1);
      }
      EXPECT_TRUE(shot.end_frame <= from + 1 || shot.begin_frame >= to - 1);
      EXPECT_GE(shot.crop->y, RawRealWriter::kBorder);
      EXPECT_LE(shot.crop->y + shot.crop->height, RawRealWriter::kBorder + 480);
      EXPECT_TRUE(shot.crop->y >= RawRealWriter::kBorder + 40 || shot.crop->x + shot.crop->width <= 645);
      if (shot.begin_frame >= to && shot.end_frame <= made.titles[1].first) {
        EXPECT_LE(shot.crop->y + shot.crop->height, RawRealWriter::kBorder + 435);
      }
      EXPECT_NEAR(static_cast<double>(shot.crop->width) / static_cast<double>(shot.crop->height), 832.0 / 480,
                  0.02);
    }
    EXPECT_EQ(probe_video(path_ / "out" / film.files.at(0)).frames, film.frames);
  }
  EXPECT_GE(shots, 7);

  make_tiny_model(path_ / "model");
  write_file_atomic(
      path_ / "train.yaml",
      fmt::format("kind: dit\nmodel: {0}\nwork: {1}\nstart_from: {0}\ndata: {{kind: folder, folder: {2}}}\n"
                  "stages: [{{steps: 1, batch: 1, latent_frames: 15, warmup: 1}}]\n",
                  quoted("model"), quoted("work"), quoted("out/films")));
  EXPECT_EQ(moga("train " + quoted("train.yaml")), 0) << errors();
}

}  // namespace
}  // namespace moga
