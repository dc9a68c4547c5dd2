// The pure parts: limits, sidecar captions, planning of films, edit lists, manifests.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/atomic_file.h"
#include "base/error.h"
#include "prepare/exports.h"
#include "prepare/limits.h"
#include "prepare/report.h"
#include "prepare/stages.h"

namespace moga {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// Shots of these lengths one after another, all of one colour.
VideoRecord video_of(const std::vector<double>& seconds) {
  VideoRecord video;
  video.id = "v";
  video.path = "v.mp4";
  video.size = "832x480";
  video.probe.fps = 16;
  double at = 0;
  for (const double length : seconds) {
    ShotRecord shot;
    shot.begin = at;
    at += length;
    shot.end = at;
    shot.begin_frame = static_cast<int64_t>(shot.begin * 16);
    shot.end_frame = static_cast<int64_t>(shot.end * 16);
    shot.colours = {1000, 0};
    video.shots.push_back(shot);
  }
  return video;
}

std::vector<std::vector<int64_t>> shots_of(const std::vector<FilmRecord>& films) {
  std::vector<std::vector<int64_t>> out;
  for (const FilmRecord& film : films) {
    out.emplace_back();
    for (const FilmShot& shot : film.shots) {
      out.back().push_back(shot.shot);
    }
  }
  return out;
}

TEST(Films, ShotsGetWholeLatentFrames) {
  // The real clips' lengths: 53 + 52 + 52 frames stay as they are.
  const auto films = plan_films(video_of({53 / 16.0, 52 / 16.0, 52 / 16.0}), FilmConfig());
  ASSERT_EQ(films.size(), 1U);
  EXPECT_EQ(films[0].frames, 157);
  EXPECT_EQ(films[0].shots[1].first_frame, 53);
  EXPECT_EQ(films[0].shots[2].first_frame, 105);
  EXPECT_EQ(films[0].width, 832);
  // Others lose up to three frames: 50 -> 49, 50 -> 48.
  const auto cut = plan_films(video_of({50 / 16.0, 50 / 16.0}), FilmConfig());
  ASSERT_EQ(cut.size(), 1U);
  EXPECT_EQ(cut[0].shots[0].frames, 49);
  EXPECT_EQ(cut[0].shots[1].frames, 48);
  for (int length = 20; length < 60; ++length) {
    const auto any = plan_films(video_of({length / 16.0, (length + 7) / 16.0, 2}), FilmConfig());
    ASSERT_EQ(any.size(), 1U);
    EXPECT_EQ(any[0].frames % 4, 1);
    EXPECT_EQ(any[0].shots[1].first_frame % 4, 1);
    EXPECT_LE(any[0].shots[0].frames, length);
    EXPECT_LE(any[0].shots[1].frames, length + 7);
  }
}

TEST(Films, AreNeverLongerThanAllowedAndUseAsMuchAsTheyCan) {
  // 30 s each: two fit into 65 s, so five shots give two films; any four of them.
  const auto films = plan_films(video_of({30, 30, 30, 30, 30}), FilmConfig());
  ASSERT_EQ(films.size(), 2U);
  for (const FilmRecord& film : films) {
    EXPECT_EQ(film.shots.size(), 2U);
    EXPECT_LE(static_cast<double>(film.frames) / film.fps, 65);
  }
  // Packing from the left would take 20 + 40 and leave 25 alone.
  EXPECT_THAT(shots_of(plan_films(video_of({20, 40, 24}), FilmConfig())), ElementsAre(ElementsAre(1, 2)));
  // Fewer films where both use the same.
  EXPECT_THAT(shots_of(plan_films(video_of({10, 10, 10, 10}), FilmConfig())),
              ElementsAre(ElementsAre(0, 1, 2, 3)));
  // A shot longer than a film cannot be in one.
  EXPECT_THAT(shots_of(plan_films(video_of({10, 10, 70, 10, 10}), FilmConfig())),
              ElementsAre(ElementsAre(0, 1), ElementsAre(3, 4)));
}

TEST(Films, NeverReachAcrossDroppedShotsOrScenes) {
  VideoRecord video = video_of({4, 4, 4, 4, 4});
  video.shots[2].dropped = Drop{"x", "y", "z"};
  EXPECT_THAT(shots_of(plan_films(video, FilmConfig())), ElementsAre(ElementsAre(0, 1), ElementsAre(3, 4)));
  video.shots[1].dropped = Drop{"x", "y", "z"};
  EXPECT_THAT(shots_of(plan_films(video, FilmConfig())), ElementsAre(ElementsAre(3, 4)));

  VideoRecord scenes = video_of({4, 4, 4, 4, 4});
  scenes.shots[2].colours = {0, 1000};
  scenes.shots[3].colours = {0, 1000};
  // Shots 4 (the old colours) is within three shots of shot 1: shot and reverse shot are one scene, but 2
  // begins another.
  EXPECT_THAT(shots_of(plan_films(scenes, FilmConfig())), ElementsAre(ElementsAre(0, 1), ElementsAre(2, 3)));
  scenes.shots[3].colours = {900, 100};
  scenes.shots[2].colours = {400, 600};
  EXPECT_THAT(shots_of(plan_films(scenes, FilmConfig())), ElementsAre(ElementsAre(0, 1, 2, 3, 4)));
  scenes.shots[2].colours = {0, 1000};
  FilmConfig all;
  all.scene_similarity = 0;
  EXPECT_THAT(shots_of(plan_films(scenes, all)), ElementsAre(ElementsAre(0, 1, 2, 3, 4)));

  VideoRecord faded = video_of({4, 4, 4, 4});
  BoundaryRecord fade;
  fade.kind = "fade";
  fade.frame = 128;
  faded.boundaries.push_back(fade);
  EXPECT_THAT(shots_of(plan_films(faded, FilmConfig())), ElementsAre(ElementsAre(0, 1), ElementsAre(2, 3)));
}

TEST(Films, MergeTakesTheWidestCaptionAndSaysWhatIsLeftOut) {
  VideoRecord video = video_of({4, 4, 70, 4, 4});
  video.captions = {{0, 1, "one"}, {0, 2, "both"}, {2, 5, "late"}};
  PrepareConfig config;
  StageServices services(config, "unused");
  StageContext context{config, "unused", services, 1, [](double) {}, false};
  run_merge(video, context);
  ASSERT_EQ(video.films.size(), 2U);
  EXPECT_EQ(video.films[0].caption, "both");
  EXPECT_EQ(video.films[1].caption, "late");
  EXPECT_EQ(video.films[1].name, "v-002");
  ASSERT_TRUE(video.shots[2].dropped);
  EXPECT_EQ(video.shots[2].dropped->cause, "alone");
}

TEST(EditLists, NameThePartsOfTheRawVideo) {
  VideoRecord video = video_of({2, 3, 2});
  video.path = "raw/long take.mkv";
  video.probe.fps = 25;
  FilmRecord film = plan_films(video, FilmConfig()).at(0);
  film.shots[0].begin = 3661.04;
  const std::string edl = film_edl(video, film);
  EXPECT_THAT(edl, HasSubstr("TITLE: v-001"));
  // 29 frames at 16 fps are 45 at 25.
  EXPECT_THAT(edl, HasSubstr("001  AX       V     C        01:01:01:01 01:01:02:21 00:00:00:00 00:00:01:20"));
  EXPECT_THAT(edl, HasSubstr("\n* FROM CLIP NAME: long take.mkv\n"));
  EXPECT_THAT(edl, HasSubstr("002  AX       V     C        00:00:02:00 00:00:05:00 00:00:01:20 00:00:04:20"));
}

TEST(Limits, TheFirstOneBrokenIsNamed) {
  const std::vector<Limit> limits = {{"sharpness", 10, {}}, {"noise", {}, 5}, {"unmeasured", 1, {}}};
  EXPECT_FALSE(broken_limit({{"sharpness", 10}, {"noise", 5}}, limits, "filter"));
  const auto low = broken_limit({{"sharpness", 9.5}, {"noise", 50}}, limits, "filter");
  ASSERT_TRUE(low);
  EXPECT_EQ(low->cause, "sharpness");
  EXPECT_EQ(low->detail, "sharpness 9.5 is below 10");
  EXPECT_EQ(broken_limit({{"noise", 5.1}}, limits, "filter")->detail, "noise 5.1 is above 5");
}

TEST(Limits, SourcesReplaceThoseOfTheSameScore) {
  const std::vector<Limit> general = {{"sharpness", 10, {}}, {"noise", {}, 5}};
  const std::vector<SourceLimits> sources = {{"*/old/*", {{"sharpness", 2, {}}, {"seconds", 9, {}}}, {}},
                                             {"*.avi", {{"noise", {}, 50}}, {}}};
  const auto limits = [&](const char* path) {
    return limits_for(path, general, sources, &SourceLimits::video);
  };
  EXPECT_EQ(*limits("a/new/x.mp4")[0].min, 10);
  EXPECT_EQ(*limits("a/old/x.mp4")[0].min, 2);
  EXPECT_EQ(limits("a/old/x.mp4").size(), 3U);
  EXPECT_EQ(*limits("a/old/x.avi")[1].max, 50);
  EXPECT_EQ(limits_for("a/old/x.mp4", general, sources, &SourceLimits::shot).size(), 2U);
}

TEST(Config, BadValuesAreNamed) {
  const auto message = [](const std::string& yaml) {
    return error_of([&] { check_config(parse_config<PrepareConfig>(yaml, "p.yaml")); });
  };
  EXPECT_EQ(message("jobs: 2"), "no error");
  EXPECT_THAT(message("filter: {video: [{score: sharpnes, min: 1}]}"), HasSubstr("did you mean 'sharpness'"));
  EXPECT_THAT(message("film: {sizes: [830x480]}"),
              HasSubstr("film.sizes: expected WIDTHxHEIGHT in multiples of 16"));
  EXPECT_THAT(message("film: {sizes: []}"), HasSubstr("at least one size"));
  EXPECT_THAT(message("film: {fps: 0}"), HasSubstr("film.fps"));
  EXPECT_THAT(message("caption: {endpoint: localhost}"), HasSubstr("http://"));
  EXPECT_THAT(message("caption: {table: /nowhere.csv}"), HasSubstr("caption.table: no such file"));
  EXPECT_THAT(message("write: {form: latents}"), HasSubstr("model folder"));
  EXPECT_THAT(message("score: {learned: [{name: a, file: /nowhere.onnx}]}"), HasSubstr("no such file"));
  EXPECT_THAT(message("spit: {}"), HasSubstr("did you mean 'split'"));
  EXPECT_THAT(error_of([] { stage_index("shot_score"); }), HasSubstr("did you mean 'shot-score'"));
  EXPECT_EQ(stage_index("write"), 9U);
}

class Sidecars : public testing::Test {
 protected:
  void SetUp() override { folder_ = fs::temp_directory_path() / fmt::format("moga_sidecar_{}", getpid()); }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path write(const std::string& name, const std::string& text) const {
    write_file_atomic(folder_ / name, text);
    return folder_ / name;
  }
  fs::path folder_;
};

TEST_F(Sidecars, CsvWithQuotesAndLineBreaks) {
  const auto captions = read_captions(write("a.csv",
                                            "\xEF\xBB\xBFvideo,start,end,caption\r\n"
                                            "x.mp4,0,2.5,\"She says \"\"no\"\",\n and leaves\"\r\n"
                                            "x.mp4,,,the whole\n\n"));
  ASSERT_EQ(captions.size(), 2U);
  EXPECT_EQ(captions[0].text, "She says \"no\", and leaves");
  EXPECT_EQ(*captions[0].end, 2.5);
  EXPECT_EQ(captions[1].text, "the whole");
  EXPECT_FALSE(captions[1].begin);
}

TEST_F(Sidecars, JsonLinesAndText) {
  const auto json = read_captions(write(
      "a.jsonl", "{\"shot\": 2, \"caption\": \"second\"}\n\n{\"caption\": \"all\", \"start\": null}\n"));
  ASSERT_EQ(json.size(), 2U);
  EXPECT_EQ(*json[0].shot, 1);
  EXPECT_FALSE(json[1].shot);
  const auto lines = read_captions(write("a.txt", "one\n\n two \n"));
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(*lines[1].shot, 1);
  EXPECT_EQ(lines[1].text, "two");
  EXPECT_FALSE(read_captions(write("b.txt", "only one\n"))[0].shot);
}

TEST_F(Sidecars, MistakesAreNamedWithTheirLine) {
  const auto message = [&](const std::string& name, const std::string& text) {
    return error_of([&] { read_captions(write(name, text)); });
  };
  EXPECT_THAT(message("a.csv", "video,text\nx,y\n"), HasSubstr("a column 'caption'"));
  EXPECT_THAT(message("a.csv", "caption,start,end\nx,2,1\n"),
              HasSubstr("a.csv:2: start 2 is not before end 1"));
  EXPECT_THAT(message("a.csv", "caption,start,end\nx,2\n"), HasSubstr("a.csv:2: expected 3 fields, found 2"));
  EXPECT_THAT(message("a.csv", "caption,start\nx,2\n"), HasSubstr("both start and end"));
  EXPECT_THAT(message("a.csv", "caption\n\"x\n"), HasSubstr("not closed"));
  EXPECT_THAT(message("a.jsonl", "{\"caption\": \"x\"}\nnonsense\n"), HasSubstr("a.jsonl:2"));
  EXPECT_THAT(message("a.jsonl", "{\"caption\": \"x\", \"shot\": 0}"), HasSubstr("1, 2, 3"));
  EXPECT_THAT(message("a.jsonl", "{\"capt\": \"x\"}"), HasSubstr("unknown column 'capt'"));
  EXPECT_THAT(message("a.txt", " \n"), HasSubstr("empty"));
  EXPECT_THAT(message("a.doc", "x"), HasSubstr(".csv, .jsonl or .txt"));
}

TEST_F(Sidecars, BelongToTheirVideo) {
  write("clip.txt", "beside");
  const std::vector<SidecarCaption> table = {{"clip.mp4", {}, {}, {}, "by name"},
                                             {"other.mp4", {}, {}, {}, "not mine"},
                                             {"clip", {}, {}, {}, "by stem"},
                                             {"ip.mp4", {}, {}, {}, "by no end of a name"}};
  std::vector<std::string> texts;
  for (const SidecarCaption& caption : captions_of(folder_ / "clip.mp4", table, true)) {
    texts.push_back(caption.text);
  }
  EXPECT_THAT(texts, ElementsAre("by name", "by stem", "beside"));
  EXPECT_EQ(captions_of(folder_ / "clip.mp4", table, false).size(), 2U);
}

TEST(Captions, AreCleanedToOneLineOfUtf8) {
  EXPECT_EQ(clean_caption("  a\n\t b\x01\x7f c\r\n"), "a b c");
  EXPECT_EQ(clean_caption("caf\xc3\xa9"), "caf\xc3\xa9");
  EXPECT_EQ(clean_caption("caf\xe9 x"), "caf? x");
}

TEST(Manifest, RoundTripsAndRefusesWhatItDoesNotKnow) {
  VideoRecord video = video_of({2, 2});
  video.shots[0].caption = "quotes \" and \\ and \n and \xc3\xa9";
  video.shots[1].dropped = Drop{"crop", "text", "why"};
  video.content = PixelBox{1, 2, 3, 4};
  video.scores.emplace().learned = {{"a", 0.1}};
  const std::string line = record_to_line(video);
  EXPECT_EQ(line.find('\n'), std::string::npos);
  EXPECT_EQ(record_to_line(line_to_record(line, "m:1")), line);
  const auto message = [](const std::string& text) { return error_of([&] { line_to_record(text, "m:7"); }); };
  EXPECT_THAT(message("{\"version\": 2}"), HasSubstr("m:7: expected a manifest record with \"version\": 1"));
  EXPECT_THAT(message("{\"version\": 1, \"id\": \"a/b\"}"), HasSubstr("without '/'"));
  EXPECT_THAT(message("{\"version\": 1, \"id\": \"a\", \"shot\": []}"), HasSubstr("unknown key 'shot'"));
  EXPECT_THAT(message("{\"version\": 1, \"id\": \"a\", \"shots\": [{\"begin\": \"x\"}]}"),
              HasSubstr("m:7.shots[0].begin: expected a number"));
  EXPECT_THAT(message("[]"), HasSubstr("m:7"));
  EXPECT_THAT(message("{"), HasSubstr("not a JSON object"));
}

TEST(Report, EscapesWhatComesFromOutside) {
  VideoRecord video = video_of({2});
  video.path = "<script>alert(1)</script>";
  video.shots[0].caption = "\"><img src=x>";
  const std::string html = video_html(video);
  EXPECT_EQ(html.find("<script>"), std::string::npos);
  EXPECT_EQ(html.find("<img src=x>"), std::string::npos);
  EXPECT_THAT(html, HasSubstr("&lt;script&gt;"));
}

}  // namespace
}  // namespace moga
